"""One picture: read from any image file into uint8 RGB, resized, cropped."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 100_000_000  # 300 MB as RGB; a photograph of today's phones has 12 to 50 million


class ImageError(ValueError):
    """A picture that cannot be read: says which file, what is wrong and what to do."""


def check_images(images: np.ndarray) -> None:
    """Raise ValueError unless `images` is uint8 of shape (n, height, width, 3) with no empty side."""
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
        found = getattr(images, "dtype", type(images).__name__)
        raise ValueError(f"images must be a NumPy array of uint8 (0-255), not {found}; do not rescale them beforehand")
    if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape[1:3]:
        raise ValueError(f"images must have shape (n, height, width, 3); got {images.shape}")


def read_image(path: str | os.PathLike) -> np.ndarray:
    """The picture in the file at `path`, as a person would see it.

    Returns uint8, (height, width, 3), RGB. The EXIF orientation is applied; grey, palette, CMYK and
    16-bit pictures are converted, transparent ones laid on white; of an animation or a multi-page
    file the first picture is read. Raises ImageError for whatever is not a readable picture.
    """
    path = Path(path)
    if path.is_dir():
        raise ImageError(f"{path} is a folder: give the path of one picture in it")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        hint = "the link points to nothing" if path.is_symlink() else "check the spelling and the folder"
        raise ImageError(f"{path}: no such file; {hint}") from None
    except OSError as error:
        raise ImageError(f"{path} cannot be opened: {error.strerror or error}; check its permissions") from None
    return decode_image(content, str(path))


def decode_image(content: bytes, name: str) -> np.ndarray:
    """The picture in `content`, the bytes of an image file called `name` in errors (see read_image)."""
    if not content:
        raise ImageError(f"{name} is empty (0 bytes): copy or download it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our own size limit below speaks in a sentence
            with Image.open(io.BytesIO(content)) as picture:
                width, height = picture.size
                if width * height > MAX_PIXELS:
                    raise ImageError(
                        f"{name} would unpack to {width} x {height} pixels, more than the limit of "
                        f"{MAX_PIXELS // 1_000_000} million: scale it down first"
                    )
                picture.load()
                pixels = np.asarray(_to_rgb(ImageOps.exif_transpose(picture)))
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{name} is not a picture that can be read: use JPEG, PNG, WebP, BMP, GIF or TIFF") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{name} would unpack to far too many pixels: scale it down first") from None
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError) as error:
        raise ImageError(f"{name} is damaged or cut off ({error}): copy or download it again") from None
    return np.ascontiguousarray(pixels)


def _to_rgb(picture: Image.Image) -> Image.Image:
    """`picture` in 8-bit RGB: 16-bit grey scaled by 1/257, transparency laid on white."""
    if picture.mode.startswith(("I;16", "I", "F")):
        values = np.asarray(picture).astype(np.float64)
        # Pillow opens 16-bit grey PNG and TIFF as I;16 or I; a float picture has no agreed range.
        top = 65535.0 if picture.mode != "F" else max(float(values.max(initial=0.0)), 1e-12)
        grey = np.clip(values / top * 255.0, 0, 255)
        return Image.fromarray(np.rint(grey).astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return picture.convert("RGB")


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """One image (h, w, 3) or a batch (n, h, w, 3), uint8, stretched to size x size pixels.

    Averages areas when shrinking and interpolates bicubically when enlarging (OpenCV).
    """
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel, not {size}")
    if images.ndim == 3:
        if images.shape[:2] == (size, size):
            return images
        shrinks = min(images.shape[:2]) >= size
        return cv2.resize(images, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    check_images(images)
    result = np.empty((len(images), size, size, 3), np.uint8)
    for image, resized in zip(images, result, strict=True):
        resized[...] = resize(image, size)
    return result


def center_crop(image: np.ndarray, size: int, fraction: float = 0.875) -> np.ndarray:
    """The standard ImageNet evaluation crop of one image: uint8, (h, w, 3) -> (size, size, 3).

    Cuts the central square whose side is `fraction` of the short side (224 of 256 = 0.875) and
    scales it, so that proportions stay as they are.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must lie between 0 and 1, not {fraction}")
    height, width = image.shape[:2]
    side = max(1, round(min(height, width) * fraction))
    top, left = (height - side) // 2, (width - side) // 2
    return resize(image[top : top + side, left : left + side], size)
