"""Data sets: right sizes, no overlap between splits, clear errors."""

import hashlib

import numpy as np
import pytest

from helpers import data


@pytest.fixture(scope="module")
def digits():
    return data.mnist()


def hashes(images):
    return {hashlib.sha256(image.tobytes()).hexdigest() for image in images.images}


def no_image_is_in_two(splits):
    return len(set.union(*map(hashes, splits))) == sum(len(hashes(part)) for part in splits)


def test_mnist_is_divided_as_the_lessons_were_made(digits):
    """The committed numbers of the lessons are those of these divisions."""
    found = [hashlib.sha256(part.images.tobytes() + part.labels.tobytes()).hexdigest()[:12] for part in digits]
    assert found == ["ecb6cf3a9d04", "62020a1f6277", "a12473af7ff2"]
    assert [list(np.bincount(part.labels)) for part in digits] == [[400] * 10, [50] * 10, [50] * 10]
    assert no_image_is_in_two(digits)
    assert hashes(data.mnist(seed=1).test) != hashes(digits.test)


def test_photo_tiles():
    """In two splits there is neither the same tile nor one that looks like it; every photograph is in every split."""
    tiles = data.photo_tiles(size=data.TILE)
    assert no_image_is_in_two(tiles) and all(len(part) > 300 for part in tiles)
    assert len(tiles.train.class_names) == 30 and all(set(part.labels) == set(range(30)) for part in tiles)
    seen = np.concatenate([tiles.train.images, tiles.validation.images])
    assert data.nearest_thumbnail_distance(tiles.test.images, seen).min() >= data.LOOKALIKE
    assert data.nearest_thumbnail_distance(tiles.validation.images, tiles.train.images).min() >= data.LOOKALIKE


def test_tiles_of_a_photograph_share_no_pixel():
    """Every pixel of a numbered image is in one tile at most."""
    numbers = np.arange(512 * 640, dtype=np.uint32).reshape(512, 640)
    image = numbers.view(np.uint8).reshape(512, 640, 4)[..., :3]  # three bytes number every pixel
    cut = data._cut_tiles(np.ascontiguousarray(image))
    pixels = np.concatenate([tile.reshape(-1, 3) for tile in cut])
    assert len(cut) == 80 and len(np.unique(pixels, axis=0)) == 512 * 640


def test_sample_images():
    assert all(min(data.sample_image(name).shape[:2]) >= 300 for name in data.SAMPLE_IMAGES)


def test_balanced_subset(digits):
    part = data.balanced_subset(digits.train, 7, seed=3)
    assert list(np.bincount(part.labels)) == [7] * 10
    assert hashes(part) <= hashes(digits.train) and len(hashes(part)) == 70
    with pytest.raises(ValueError, match="class '0' has 400 images; 401 per class cannot be drawn"):
        data.balanced_subset(digits.train, 401)
