"""Images: read from any image file, folder or address into uint8 RGB, resized, cropped."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from helpers.assets import FileError, fetch

MAX_PIXELS = 100_000_000  # 300 MB as RGB; a photograph of today's phones has 12 to 50 million
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
    if "://" in source:
        items = [(source.split("?")[0].rstrip("/").rpartition("/")[2] or source, source)]
    elif os.path.isdir(source):
        try:
            paths = sorted(path for path in Path(source).iterdir() if not (path.name.startswith(".") or path.is_dir()))
        except OSError as error:
            raise ImageError(f"the folder {source} cannot be read: {error.strerror}; check its permissions") from None
        if not paths:
            raise ImageError(f"the folder {source} holds no file: put images into it")
        items = [(path.name, str(path)) for path in paths]
    else:
        items = [(Path(source).name or source, source)]
    for name, where in items:
        try:
            yield name, _download_image(where) if "://" in where else read_image(where)
        except ImageError as error:
            yield name, error


def _download_image(url: str) -> np.ndarray:
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
        if path.is_dir():
            raise ImageError(f"{path} is a folder: give the path of one image in it")
        if path.exists() and not path.is_file():
            raise ImageError(f"{path} is a device or pipe, not a file: give the path of an image")
        if path.stat().st_size > MAX_BYTES:
            raise ImageError(f"{path} is larger than {MAX_BYTES // 1_000_000} MB: save a smaller copy")
        content = path.read_bytes()
    except FileNotFoundError:
        hint = "the link points to nothing" if path.is_symlink() else "check the spelling and the folder"
        raise ImageError(f"{path}: no such file; {hint}") from None
    except OSError as error:
        raise ImageError(f"{path} cannot be opened: {error.strerror or error}; check its permissions") from None
    return decode_image(content, str(path))


def decode_image(content: bytes, name: str) -> np.ndarray:
    """The image in `content`, the bytes of an image file called `name` in errors (see read_image)."""
    if not content:
        raise ImageError(f"{name} is empty (0 bytes): copy or download it again")
    if _has_hole(content):
        raise ImageError(f"{name} is damaged (a stretch of zero bytes inside): copy or download it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our own size limit below speaks in a sentence
            with Image.open(io.BytesIO(content)) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise ImageError(
                        f"{name} would unpack to {width} x {height} pixels, more than the limit of "
                        f"{MAX_PIXELS // 1_000_000} million: scale it down first"
                    )
                image.load()
                return np.ascontiguousarray(_to_rgb(ImageOps.exif_transpose(image)))
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(
            f"{name} is not an image that can be read: use JPEG, PNG, WebP, BMP, GIF or TIFF (export HEIC as JPEG)"
        ) from None
    except Image.DecompressionBombError:
        raise ImageError(f"{name} would unpack to far too many pixels: scale it down first") from None
    except Exception as error:  # decoders of damaged files raise nearly every kind
        raise ImageError(f"{name} is damaged or cut off ({error}): copy or download it again") from None


def _has_hole(content: bytes) -> bool:
    """Whether a JPEG has lost part of its data to zero bytes, which decoders turn into garbage silently.

    Only said where it is certain: in baseline JPEGs with the standard Huffman tables (ITU T.81, K.3),
    whose brightness blocks, even blank ones, cannot be coded as 64 zero bytes.
    """
    standard_table = bytes((0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 0x7D))
    position, segments = 2, []
    while content[:2] == b"\xff\xd8" and content[position : position + 1] == b"\xff":
        length = int.from_bytes(content[position + 2 : position + 4])
        segments.append((content[position + 1], content[position + 4 : position + 2 + length]))
        position += 2 + length
        if segments[-1][0] == 0xDA:  # start of scan: the coded image follows, up to the mark FF D9
            break
    baseline = any(marker == 0xC0 for marker, _ in segments)
    standard = any(marker == 0xC4 and standard_table in table for marker, table in segments)
    end = content.find(b"\xff\xd9", position)
    return baseline and standard and bytes(64) in content[position : end if end > 0 else None]


def _to_rgb(image: Image.Image) -> Image.Image:
    """`image` in 8-bit RGB: 16-bit grey scaled by 1/257, transparency laid on white."""
    if image.mode.startswith(("I;16", "I", "F")):
        values = np.asarray(image)
        if image.mode == "F":  # has no agreed range
            grey = np.clip(values / max(float(values.max(initial=0.0)), 1e-12) * 255.0, 0, 255).round()
        else:  # Pillow opens 16-bit grey PNG and TIFF as I;16 or I
            grey = (np.clip(values, 0, 65535).astype(np.uint32) + 128) // 257
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
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
