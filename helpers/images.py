"""Images: read from any image file, folder or address into uint8 RGB, resized, cropped."""

import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from helpers.assets import FileError, fetch

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")  # of all that Pillow reads; others may start programs
MAX_SIDE = 30_000  # pixels
MAX_PIXELS = 100_000_000  # 300 MB as RGB; today's phones make 12 to 50 million
MAX_BYTES = 50_000_000  # of a file or a download


class ImageError(ValueError):
    """An image that cannot be read: says which file, what is wrong and what to do."""


def check_images(images: np.ndarray) -> None:
    """Raise ValueError unless `images` is uint8 of shape (n, height, width, 3) with no empty side."""
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
        found = getattr(images, "dtype", type(images).__name__)
        raise ValueError(f"images must be a NumPy array of uint8 (0-255), not {found}; do not rescale them beforehand")
    if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape[1:3]:
        raise ValueError(f"images must have shape (n, height, width, 3); got {images.shape}")


def read_images(source: str) -> Iterator[tuple[str, np.ndarray | ImageError]]:
    """(name, image) for every image at `source`: a file, a folder, or an http(s) address.

    One at a time, as read_image returns them, so that a large folder needs no more memory than one
    image. A bad one comes as (name, ImageError) and the next follow. Of a folder the files are read
    by name; hidden files and sub-folders are left out. Raises ImageError if the folder has none.
    """
    items = [(source.split("?")[0].rstrip("/").rpartition("/")[2] or source, source)]
    if "://" not in source and os.path.isdir(source):
        try:
            files = sorted(path for path in Path(source).iterdir() if path.name[0] != "." and not path.is_dir())
        except OSError as error:
            raise ImageError(f"the folder {source} cannot be read: {error.strerror}") from None
        if not files:
            raise ImageError(f"the folder {source} holds no file: put images into it")
        items = [(file.name, str(file)) for file in files]
    for name, where in items:
        try:
            yield name, _fetch_image(where) if "://" in where else read_image(where)
        except ImageError as error:
            yield name, error


def _fetch_image(url: str) -> np.ndarray:
    """The image at `url`, as read_image returns it."""
    if not url.lower().startswith(("http://", "https://")):
        raise ImageError(f"{url}: only http:// and https:// addresses are fetched")
    try:
        return decode_image(fetch(url, MAX_BYTES, "image"), url)
    except FileError as error:
        raise ImageError(str(error)) from None


def read_image(path: str | os.PathLike) -> np.ndarray:
    """The image in the file at `path`, as a person would see it.

    Returns uint8, (height, width, 3), RGB. The EXIF orientation is applied; grey, palette, CMYK and
    16-bit images are converted, transparent ones laid on white; of an animation or a multi-page
    file the first image is read. Raises ImageError for whatever is not a readable image.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        content = path.read_bytes() if path.is_file() and size <= MAX_BYTES else b""
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise ImageError(f"{path} cannot be opened: {getattr(error, 'strerror', error)}") from None
    if not path.is_file():
        raise ImageError(f"{path} is not a file: give the path of one image")
    if size > MAX_BYTES:
        raise ImageError(f"{path} is larger than {MAX_BYTES // 1_000_000} MB: save a smaller copy")
    return decode_image(content, str(path))


def decode_image(content: bytes, name: str) -> np.ndarray:
    """The image in `content`, the bytes of an image file called `name` in errors (see read_image)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our own size limit below speaks in a sentence
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                width, height = image.size
                if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
                    limit = f"{MAX_PIXELS // 1_000_000} million or {MAX_SIDE} a side"
                    raise ImageError(f"{name} has {width} x {height} pixels, more than {limit}: scale it down first")
                return np.ascontiguousarray(_to_rgb(ImageOps.exif_transpose(image)))
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{name} is not an image that can be read: save it as JPEG or PNG (HEIC, too)") from None
    except Exception as error:  # decoders of damaged files raise nearly every kind
        raise ImageError(f"{name} is damaged, cut off or too large ({error}): copy or download it again") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    """`image` in 8-bit RGB: 16-bit grey scaled by 1/257, transparency laid on white."""
    if image.mode.startswith("I"):  # Pillow opens 16-bit grey PNG and TIFF as I;16 or I
        grey = (np.clip(np.asarray(image), 0, 65535).astype(np.uint32) + 128) // 257
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


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
