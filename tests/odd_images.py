"""Files of images of every odd kind, each with the pixels that a person sees in it."""

import io

import cv2
import numpy as np
from PIL import Image

# Six blocks of 32 x 32 pixels, 2 rows and 3 columns: no turn or reflection maps them onto themselves.
COLOURS = [[200, 30, 40], [30, 180, 60], [40, 60, 190], [220, 200, 50], [120, 120, 120], [20, 20, 20]]
BLOCKS = np.array(COLOURS, np.uint8).reshape(2, 3, 3).repeat(32, axis=0).repeat(32, axis=1)
# What the camera stores when its orientation is 1 to 8 (EXIF 2.3, tag 274): quarter turns, then mirrored if -1.
STORED = {1: (0, 1), 2: (0, -1), 3: (2, 1), 4: (2, -1), 5: (-1, -1), 6: (1, 1), 7: (1, -1), 8: (-1, 1)}


def encoded(image, kind, **options) -> bytes:
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(np.ascontiguousarray(image))
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(image=BLOCKS, **options) -> bytes:
    return encoded(image, "JPEG", **({"quality": 95, "subsampling": 0} | options))


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    turns, mirrored = STORED[orientation]
    return jpeg(np.rot90(BLOCKS, turns)[:, ::mirrored], exif=exif)


def wide(pixels) -> np.ndarray:
    """The pixels of one row, each as a square."""
    return np.array([pixels], np.uint8).repeat(40, axis=0).repeat(40, axis=1)


def level(value: int, height: int = 64, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def write_folder(root, counts):
    """A folder for each class, in which there are so many images; those of later classes are brighter."""
    random = np.random.default_rng(0)
    for label, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for number in range(count):
            image = random.integers(0, 120, (72, 96, 3)) + 60 * label
            cv2.imwrite(str(root / name / f"{number}.png"), image.astype(np.uint8))
    return root


PALETTE = Image.fromarray(wide([0, 1, 0]), "P")
PALETTE.putpalette([10, 20, 30, 40, 50, 60])
TRANSPARENT = wide([[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]])
GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
DEEP = np.minimum(GREY.astype(int) * 257 + 100, 65535).astype(np.uint16)  # rounds to GREY
CMY = 255 - np.rint(np.minimum(BLOCKS, 200) / 0.8)
INK = np.concatenate([CMY, np.full_like(CMY[..., :1], 51)], axis=-1).astype(np.uint8)  # a fifth of black
LARGE = BLOCKS.repeat(16, axis=0).repeat(16, axis=1)
WHITE = [255, 255, 255]

# name: content, pixels, how far off they may be on average
ODD = {kind: (encoded(BLOCKS, kind, lossless=True), BLOCKS, 0) for kind in ("PNG", "BMP", "TIFF", "GIF", "WEBP")}
ODD |= {f"EXIF {number}": (turned(number), BLOCKS, 2) for number in STORED}
ODD |= {
    "progressive": (jpeg(progressive=True), BLOCKS, 2),
    "coarse colours": (jpeg(subsampling=2), BLOCKS, 3),
    "large": (jpeg(LARGE), LARGE, 2),
    "CMYK": (jpeg(Image.fromarray(INK, "CMYK")), np.minimum(BLOCKS, 200), 4),
    "16-bit grey PNG": (encoded(DEEP, "PNG"), np.stack([GREY] * 3, axis=-1), 0),
    "16-bit grey TIFF": (encoded(DEEP, "TIFF"), np.stack([GREY] * 3, axis=-1), 0),
    "16-bit colour": (cv2.imencode(".png", BLOCKS[..., ::-1].astype(np.uint16) * 257)[1].tobytes(), BLOCKS, 0),
    "one bit": (encoded(Image.new("1", (80, 60), 1), "BMP"), level(255, 60, 80), 0),
    "palette": (encoded(PALETTE, "PNG", transparency=bytes((0, 255))), wide([WHITE, [40, 50, 60], WHITE]), 0),
    "transparent": (encoded(TRANSPARENT, "PNG"), wide([[10, 20, 30], WHITE, [204, 204, 204]]), 0),
    "transparent grey": (encoded(Image.fromarray(wide([[7, 255], [7, 0]]), "LA"), "PNG"), wide([[7] * 3, WHITE]), 0),
    "animated": (encoded(level(10), "GIF", save_all=True, append_images=[Image.fromarray(level(99))]), level(10), 0),
}
THIN = {f"thin {size}": level(77, *size) for size in ((1, 1), (1, 300), (300, 1))}
ODD |= {kind: (encoded(pixels, "PNG"), pixels, 0) for kind, pixels in THIN.items()}
