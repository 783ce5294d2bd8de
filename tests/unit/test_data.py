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


def test_mnist_is_balanced_and_complete(digits):
    assert [len(part) for part in digits] == [4000, 500, 500]
    assert [list(np.bincount(part.labels)) for part in digits] == [[400] * 10, [50] * 10, [50] * 10]
    assert sum(len(hashes(part)) for part in digits) == 5000  # no duplicates either
    assert digits.train.images.shape == (4000, 28, 28, 3) and digits.train.images.dtype == np.uint8


def test_mnist_splits_do_not_overlap(digits):
    assert_no_common_image(digits)


def test_overlap_would_be_found(digits):
    leaking = digits._replace(test=digits.test.take(np.arange(5)), validation=digits.test.take(np.arange(4, 9)))
    with pytest.raises(AssertionError, match="1 images are in two splits"):
        assert_no_common_image(leaking)


def test_another_seed_draws_other_splits(digits):
    assert hashes(data.mnist(seed=1).test) != hashes(digits.test)


def test_labels_belong_to_their_digits(digits):
    """A nearest-mean classifier is right far more often than chance only if images and labels match."""
    flat = digits.train.images[..., 0].reshape(4000, -1).astype(float)
    means = np.stack([flat[digits.train.labels == label].mean(0) for label in range(10)])
    test = digits.test.images[..., 0].reshape(500, -1).astype(float)
    nearest = ((test[:, None] - means) ** 2).sum(-1).argmin(1)
    assert (nearest == digits.test.labels).mean() > 0.7


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
    """Every pixel of a numbered picture is in one tile at most."""
    numbers = np.arange(512 * 640, dtype=np.uint32).reshape(512, 640)
    picture = numbers.view(np.uint8).reshape(512, 640, 4)[..., :3]  # three bytes number every pixel
    cut = data._cut_tiles(np.ascontiguousarray(picture))
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


@pytest.mark.parametrize("name", data.SAMPLE_IMAGES)
def test_photographs(name):
    picture = data.sample_image(name)
    assert picture.dtype == np.uint8 and picture.ndim == 3 and min(picture.shape[:2]) >= 300


def test_unknown_photograph():
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


def test_full_mnist_with_other_content(tmp_path):
    write_mnist(tmp_path / "m.npz")
    with pytest.raises(FileError, match="m.npz differs from the official MNIST"):
        data.mnist_full(path=str(tmp_path / "m.npz"))


def test_full_mnist_cut_off(tmp_path):
    write_mnist(tmp_path / "m.npz")
    content = (tmp_path / "m.npz").read_bytes()
    (tmp_path / "m.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(FileError, match="m.npz is not a whole mnist.npz"):
        data.mnist_full(path=str(tmp_path / "m.npz"))


def test_full_mnist_absent(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(FileError, match="does not exist: give the path of an mnist.npz, or allow its download"):
        data.mnist_full()
