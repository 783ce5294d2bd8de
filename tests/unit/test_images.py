"""Odd image files, one kind after the other: each is read rightly, down to the pixels, or refused with a sentence."""

import os
import struct
import zlib

import numpy as np
import pytest
from bad_input import rows
from odd_images import BLOCKS, ODD, encoded, jpeg
from PIL import Image, ImageFile

from helpers.images import ImageError, center_crop, decode_image, read_image, read_images, resize


def png_that_says(width: int, height: int) -> bytes:
    """A PNG whose header gives any size: nobody should get as far as its pixels."""
    coded = encoded(Image.new("1", (1, 1)), "PNG")
    header = b"IHDR" + struct.pack(">II", width, height) + coded[24:29]
    return coded[:12] + header + struct.pack(">I", zlib.crc32(header)) + coded[33:]


# An image whose JPEG is long enough to lose a part in the middle.
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)).resize((640, 480))


# ---- read rightly -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ODD)
def test_odd_images_are_read_rightly(kind):
    content, pixels, tolerance = ODD[kind]
    image = decode_image(content, kind)
    assert image.dtype == np.uint8 and image.shape == pixels.shape
    assert np.abs(image.astype(int) - pixels).mean() <= tolerance
    assert center_crop(image, 224).shape == resize(image, 224).shape == (224, 224, 3), "thin ones, too"


@pytest.mark.parametrize("name", ["my photo.png", "猫的照片.png", "Åse & Zoë #1 100%.png", "no suffix", "liar.jpg"])
def test_file_names(tmp_path, name):
    (tmp_path / name).write_bytes(encoded(BLOCKS, "PNG"))
    assert np.array_equal(read_image(tmp_path / name), BLOCKS)
    ((found, image),) = read_images(str(tmp_path / name))
    assert found == name and np.array_equal(image, BLOCKS)


# ---- refused with a sentence --------------------------------------------------------------------

WHOLE_JPEG = jpeg(NOISE)
DAMAGED = {
    "half a JPEG": WHOLE_JPEG[: len(WHOLE_JPEG) // 2],
    "a PNG without its end": encoded(NOISE, "PNG")[:-5000],
    "a TIFF of floating-point numbers": encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"),
}


@pytest.mark.parametrize(("given", "sentence"), rows("image files"))
def test_refused(tmp_path, given, sentence):
    """given: the text in a file, the width and height that a PNG says it has, or which of DAMAGED it is."""
    content = png_that_says(*given) if isinstance(given, list) else DAMAGED.get(given, given.encode("latin-1"))
    path = tmp_path / "holiday.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=f"holiday.jpg .*({sentence})"):
        read_image(path)


@pytest.mark.parametrize(("name", "sentence"), rows("paths of images"))
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
    files = {"a.png": encoded(BLOCKS, "PNG"), "b.jpg": b"not an image", "c.jpg": WHOLE_JPEG[:5000]}
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
