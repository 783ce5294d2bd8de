"""Odd image files, one kind after the other: each is read rightly, down to the pixels, or refused with a sentence."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from helpers.images import ImageError, center_crop, decode_image, read_image, read_images, resize

# Six blocks of 32 x 32 pixels, 2 rows and 3 columns: no turn or reflection maps them onto themselves.
COLOURS = [[200, 30, 40], [30, 180, 60], [40, 60, 190], [220, 200, 50], [120, 120, 120], [20, 20, 20]]
COLOURS = np.array(COLOURS, np.uint8).reshape(2, 3, 3)
BLOCKS = COLOURS.repeat(32, axis=0).repeat(32, axis=1)
GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)


def encoded(image, kind, **options) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(image=BLOCKS, **options) -> bytes:
    return encoded(image, "JPEG", **({"quality": 95, "subsampling": 0} | options))


def block_colours(image) -> np.ndarray:
    """The mean colour of each block, away from its borders."""
    height, width = image.shape[:2]
    return image.reshape(height // 32, 32, width // 32, 32, 3)[:, 8:-8, :, 8:-8].mean(axis=(1, 3))


def png_that_says(width: int, height: int) -> bytes:
    """A PNG whose header gives any size: nobody should get as far as its pixels."""
    coded = encoded(Image.new("1", (1, 1)), "PNG")
    header = b"IHDR" + struct.pack(">II", width, height) + coded[24:29]
    return coded[:12] + header + struct.pack(">I", zlib.crc32(header)) + coded[33:]


# An image whose JPEG is long enough to lose a part in the middle.
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)).resize((640, 480))


# ---- read rightly -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "WEBP"])
def test_lossless_formats_are_read_exactly(kind):
    image = decode_image(encoded(BLOCKS, kind, lossless=True), kind)
    assert image.dtype == np.uint8 and np.array_equal(image, BLOCKS)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}, {"subsampling": 2}])
def test_jpeg(options):
    image = decode_image(jpeg(**options), "photo.jpg")
    assert image.shape == (64, 96, 3) and np.abs(block_colours(image) - COLOURS).max() < 4


UPRIGHT_TO_STORED = {  # what the camera stores when its orientation is 1 to 8 (EXIF 2.3, tag 274)
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", UPRIGHT_TO_STORED)
def test_exif_orientation(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    stored = np.ascontiguousarray(UPRIGHT_TO_STORED[orientation](BLOCKS))
    image = decode_image(jpeg(stored, exif=exif), "telephone.jpg")
    assert image.shape == (64, 96, 3) and np.abs(block_colours(image) - COLOURS).max() < 4


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey(kind):
    deep = np.minimum(GREY.astype(int) * 257 + 100, 65535).astype(np.uint16)  # rounds to GREY
    image = decode_image(encoded(deep, kind), "deep")
    assert np.array_equal(image[..., 1], GREY) and np.array_equal(image[..., 0], image[..., 2])


def test_16_bit_colour():
    import cv2

    coded = cv2.imencode(".png", BLOCKS[..., ::-1].astype(np.uint16) * 257)[1].tobytes()
    assert coded[24] == 16  # bits per sample
    assert np.array_equal(decode_image(coded, "deep.png"), BLOCKS)


def test_transparency_is_laid_on_white():
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1])
    sticker = decode_image(encoded(palette, "PNG", transparency=bytes((0, 255))), "sticker.png")
    assert sticker.tolist() == [[[255, 255, 255], [40, 50, 60]]]
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], np.uint8)
    assert decode_image(encoded(rgba, "PNG"), "logo.png").tolist() == [[[10, 20, 30], [255, 255, 255], [204, 204, 204]]]
    grey = Image.fromarray(np.array([[[7, 255], [7, 0]]], np.uint8), "LA")
    assert decode_image(encoded(grey, "PNG"), "grey.png").tolist() == [[[7, 7, 7], [255, 255, 255]]]


def test_cmyk_jpeg():
    cmy = 255 - np.rint(np.minimum(BLOCKS, 200) / 0.8)
    ink = np.concatenate([cmy, np.full_like(cmy[..., :1], 51)], axis=-1)  # a fifth of black
    coded = jpeg(Image.fromarray(ink.astype(np.uint8), "CMYK"))
    assert b"Adobe" in coded and Image.open(io.BytesIO(coded)).mode == "CMYK"
    assert np.abs(block_colours(decode_image(coded, "print.jpg")) - np.minimum(COLOURS, 200)).max() < 6


def test_animated_gif_gives_its_first_image():
    frames = [Image.fromarray(np.full((8, 8, 3), level, np.uint8)) for level in (10, 120, 240)]
    coded = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(coded)).n_frames == 3
    assert (decode_image(coded, "film.gif") == 10).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1)])
def test_thin_images_are_read_and_can_be_cropped(shape):
    image = decode_image(encoded(np.full((*shape, 3), 77, np.uint8), "PNG"), "thin.png")
    assert image.shape == (*shape, 3) and (image == 77).all()
    assert (center_crop(image, 224) == 77).all() and (resize(image, 224) == 77).all()


@pytest.mark.parametrize("name", ["my photo.png", "猫的照片.png", "Åse & Zoë #1 100%.png", "no suffix", "liar.jpg"])
def test_file_names(tmp_path, name):
    (tmp_path / name).write_bytes(encoded(BLOCKS, "PNG"))
    assert np.array_equal(read_image(tmp_path / name), BLOCKS)
    ((found, image),) = read_images(str(tmp_path / name))
    assert found == name and np.array_equal(image, BLOCKS)


# ---- refused with a sentence --------------------------------------------------------------------

CUT_JPEG = jpeg(NOISE)
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
UNREADABLE = "is not an image that can be read: save it as JPEG or PNG"
REFUSED = {
    "empty": (b"", UNREADABLE),
    "text": (b"This is not an image.\n" * 99, UNREADABLE),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', UNREADABLE),
    "heic of a telephone": (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(99), UNREADABLE),
    "postscript, for which a program would be started": (POSTSCRIPT, UNREADABLE),
    "random bytes": (np.random.default_rng(0).bytes(5000), UNREADABLE),
    "truncated jpeg": (CUT_JPEG[: len(CUT_JPEG) // 2], r"is damaged, cut off or too large \(.+\): copy or download it"),
    "truncated png": (encoded(NOISE, "PNG")[:-5000], "is damaged, cut off"),
    "truncated gif": (encoded(NOISE, "GIF")[:-5000], "is damaged, cut off"),
    "truncated webp": (encoded(NOISE, "WEBP")[:-500], "is damaged, cut off|is not an image"),
    "truncated tiff": (encoded(NOISE, "TIFF")[:-5000], "is damaged, cut off"),
    "float tiff": (encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "floating-point pixels"),
    "bomb of 20000 x 20000": (png_that_says(20000, 20000), "too large .*400000000 pixels"),
    "bomb of 11000 x 11000": (png_that_says(11000, 11000), "has 11000 x 11000 pixels, more than 100 million"),
    "100,000 pixels in a row": (png_that_says(100_000, 1), "has 100000 x 1 pixels, more than .* or 30000 a side"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(tmp_path, kind):
    content, sentence = REFUSED[kind]
    path = tmp_path / "holiday.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=f"holiday.jpg .*({sentence})"):
        read_image(path)


@pytest.mark.parametrize(("name", "sentence"), [
    ("nowhere.jpg", "nowhere.jpg cannot be opened: No such file or directory"),
    ("x" * 300, "cannot be opened: File name too long"),
    ("a\0.jpg", "cannot be opened: "),
    (".", "is not a file: give the path of one image"),
    ("pipe", "pipe is not a file"),
    ("film.mov", "film.mov is larger than 50 MB"),
])  # fmt: skip
def test_what_is_not_a_file_of_an_image(tmp_path, name, sentence):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "film.mov").touch()
    os.truncate(tmp_path / "film.mov", 10**12)  # takes no space, and cannot be loaded
    with pytest.raises(ImageError, match=sentence):
        read_image(tmp_path / name)


def test_bombs_are_refused_before_they_are_unpacked(monkeypatch):
    unpacked = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: unpacked.append(self.size))
    with pytest.raises(ImageError, match="11000"):
        decode_image(png_that_says(11000, 11000), "bomb.png")
    assert unpacked == []


# ---- folders ------------------------------------------------------------------------------------


def test_one_bad_file_does_not_stop_the_others(tmp_path):
    files = {"a.png": encoded(BLOCKS, "PNG"), "b.jpg": b"not an image", "c.jpg": CUT_JPEG[:5000]}
    for name, content in (files | {"e.png": encoded(255 - BLOCKS, "PNG"), ".hidden.png": b""}).items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "d.jpg").symlink_to("gone")
    (tmp_path / "folder").mkdir()
    found = dict(read_images(str(tmp_path)))
    assert list(found) == ["a.png", "b.jpg", "c.jpg", "d.jpg", "e.png"]
    assert np.array_equal(found["a.png"], BLOCKS) and np.array_equal(found["e.png"], 255 - BLOCKS)
    assert all(isinstance(found[name], ImageError) and name in str(found[name]) for name in ("b.jpg", "c.jpg", "d.jpg"))


# ---- resizing and cropping ----------------------------------------------------------------------


def test_center_crop_keeps_proportions():
    image = np.zeros((100, 400, 3), np.uint8)
    image[10:90, 160:240] = 200  # a centred square of 80 of 100
    crop = center_crop(image, 200, fraction=1.0)
    assert crop.shape == (200, 200, 3) and [np.ptp(at) for at in np.nonzero(crop[..., 0] > 100)] == [159, 159]


def test_resize_stretches_and_averages():
    stripes = np.zeros((64, 128, 3), np.uint8)
    stripes[:, ::2] = 200
    assert (resize(stripes, 32) == 100).all()
    assert resize(np.stack([stripes] * 2), 32).shape == (2, 32, 32, 3)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: resize(BLOCKS, 0), "size must be at least 1"),
    (lambda: center_crop(BLOCKS, 10, fraction=0), "fraction must lie between 0 and 1"),
    (lambda: center_crop(BLOCKS, 10, fraction=1.5), "fraction must lie between 0 and 1"),
])  # fmt: skip
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
