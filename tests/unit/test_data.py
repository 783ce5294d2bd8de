"""Data sets: right sizes, no overlap between splits, clear errors."""

import hashlib
from itertools import combinations

import numpy as np
import pytest

from helpers import data
from helpers.assets import FileError
from helpers.images import resize


@pytest.fixture(scope="module")
def digits():
    return data.mnist()


@pytest.fixture(scope="module")
def tiles():
    return data.photo_tiles(size=data.TILE)


def hashes(images):
    return {hashlib.sha256(image.tobytes()).hexdigest() for image in images.images}


def assert_no_common_image(splits):
    for one, other in combinations(splits, 2):
        common = hashes(one) & hashes(other)
        assert not common, f"{len(common)} images are in two splits"


def test_mnist_is_divided_as_the_lessons_were_made(digits):
    """The committed numbers of the lessons are those of these divisions."""
    found = [hashlib.sha256(part.images.tobytes() + part.labels.tobytes()).hexdigest()[:12] for part in digits]
    assert found == ["ecb6cf3a9d04", "62020a1f6277", "a12473af7ff2"]
    assert [list(np.bincount(part.labels)) for part in digits] == [[400] * 10, [50] * 10, [50] * 10]
    assert_no_common_image(digits)
    assert hashes(data.mnist(seed=1).test) != hashes(digits.test)


def test_photo_tiles_do_not_overlap(tiles):
    assert_no_common_image(tiles)
    assert all(len(part) > 300 for part in tiles) and len(tiles.train.class_names) == 30
    for part in tiles:
        assert set(part.labels) == set(range(30)), "every photograph is in every split"


def test_photo_tiles_have_no_lookalikes_across_splits(tiles):
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


def test_labelled_photographs():
    photographs = data.imagenet_images()
    assert photographs.images.shape == (20, 512, 512, 3)
    assert photographs.class_names[photographs.labels[16]] == "dalmatian"
    assert len(photographs.class_names) == 1000


def test_imagenet_classes_are_keras_names():
    classes = data.imagenet_classes()
    assert len(classes) == 1000 and len({wnid for wnid, _ in classes}) == 1000
    known = {
        385: ("n02504013", "Indian_elephant"),
        101: ("n01871265", "tusker"),
        386: ("n02504458", "African_elephant"),
    }
    assert {index: classes[index] for index in known} == known


def test_sample_images():
    for name in data.SAMPLE_IMAGES:
        image = data.sample_image(name)
        assert image.dtype == np.uint8 and image.ndim == 3 and min(image.shape[:2]) >= 300
    with pytest.raises(ValueError, match="unknown image 'dog': choose one of astronaut, chelsea"):
        data.sample_image("dog")


def test_balanced_subset(digits):
    part = data.balanced_subset(digits.train, 7, seed=3)
    assert list(np.bincount(part.labels)) == [7] * 10
    assert hashes(part) <= hashes(digits.train) and len(hashes(part)) == 70
    with pytest.raises(ValueError, match="class '0' has 400 images; 401 per class cannot be drawn"):
        data.balanced_subset(digits.train, 401)


@pytest.mark.parametrize(
    ("images", "labels", "sentence"),
    [
        (np.zeros((3, 8, 8, 3), np.uint8), np.zeros(2, int), "3 images need as many integer labels"),
        (np.zeros((3, 8, 8, 3), np.uint8), np.zeros(3), "integer labels in one dimension"),
        (np.zeros((3, 8, 8, 3), np.float32), np.zeros(3, int), "must be a NumPy array of uint8"),
        (np.zeros((3, 8, 8), np.uint8), np.zeros(3, int), r"must have shape \(n, height, width, 3\)"),
        (np.zeros((3, 0, 8, 3), np.uint8), np.zeros(3, int), r"must have shape \(n, height, width, 3\)"),
    ],
)
def test_wrong_images_or_labels(images, labels, sentence):
    with pytest.raises(ValueError, match=sentence):
        data.ImageSet(images, labels, (), "", "")


def write_mnist(path, **changes):
    """A file like mnist.npz with the right names and shapes, but not the official content."""
    shapes = {"x_train": (60, 28, 28), "y_train": (60,), "x_test": (10, 28, 28), "y_test": (10,)}
    arrays = {
        name: np.arange(np.prod(shape), dtype=np.int64).astype(np.uint8).reshape(shape)
        for name, shape in shapes.items()
    }
    arrays |= changes
    np.savez_compressed(path, **arrays)
    return arrays


def test_full_mnist_from_a_file(tmp_path, monkeypatch):
    """The path that reads, checks and divides the file, on a small stand-in whose digests are declared."""
    labels = np.arange(6000, dtype=np.int64).astype(np.uint8) % 10
    images = np.random.default_rng(0).integers(0, 256, (6000, 28, 28), np.uint8)
    arrays = write_mnist(tmp_path / "m.npz", x_train=images, y_train=labels)
    digest = hashlib.sha256(b"".join(arrays.values())).hexdigest()
    monkeypatch.setattr(data, "_MNIST_ARRAYS", digest)
    splits = data.mnist_full(size=32, path=str(tmp_path / "m.npz"))
    assert [len(part) for part in splits] == [1000, 5000, 10]
    assert list(np.bincount(splits.validation.labels)) == [500] * 10
    assert_no_common_image(splits)
    assert np.array_equal(splits.test.images[3], resize(np.repeat(arrays["x_test"][3][..., None], 3, -1), 32))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda file: None, "m.npz differs from the official MNIST"),
        (lambda file: file.write_bytes(file.read_bytes()[:999]), "m.npz is not a whole mnist.npz"),
        (lambda file: file.unlink(), "m.npz does not exist: give the path of an mnist.npz, or allow its download"),
    ],
)
def test_full_mnist_of_a_wrong_file(tmp_path, damage, sentence):
    write_mnist(tmp_path / "m.npz")
    damage(tmp_path / "m.npz")
    with pytest.raises(FileError, match=sentence):
        data.mnist_full(path=str(tmp_path / "m.npz"))
