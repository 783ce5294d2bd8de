"""All of MNIST: read, checked and divided, on small stand-ins for the official file."""

import hashlib

import numpy as np
import pytest
from bad_input import damage, rows

import mnist_data
from helpers.assets import FileError
from helpers.images import resize


@pytest.fixture
def stand_in(tmp_path):
    """A file with the right names but other digits, and its arrays."""
    random = np.random.default_rng(0)
    x_train, x_test = (random.integers(0, 256, (n, 28, 28), np.uint8) for n in (6000, 9))
    y_train, y_test = (np.arange(n, dtype=np.uint8) % 10 for n in (6000, 9))
    np.savez(tmp_path / "m.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return tmp_path / "m.npz", [x_train, y_train, x_test, y_test]


def test_full_mnist_from_a_file(stand_in, monkeypatch):
    """The digest of the stand-in is declared; the division is the one that all records were made with."""
    file, arrays = stand_in
    monkeypatch.setattr(mnist_data, "ARRAYS", hashlib.sha256(b"".join(arrays)).hexdigest())
    splits = mnist_data.mnist_full(size=32, path=str(file))
    assert [len(part) for part in splits] == [1000, 5000, 9]
    assert list(np.bincount(splits.validation.labels)) == [500] * 10
    found = [hashlib.sha256(part.images.tobytes() + part.labels.tobytes()).hexdigest()[:12] for part in splits]
    assert found == ["99650266ea16", "8afdb49982e8", "329867180c35"]
    assert len({image.tobytes() for part in splits for image in part.images}) == 6009, "no digit is in two parts"
    assert np.array_equal(splits.test.images[3], resize(np.repeat(arrays[2][3][..., None], 3, -1), 32))


@pytest.mark.parametrize(("given", "sentence"), rows("files of MNIST"))
def test_full_mnist_of_a_wrong_file(stand_in, given, sentence):
    damage(stand_in[0], given)
    with pytest.raises(FileError, match=sentence):
        mnist_data.mnist_full(path=str(stand_in[0]))
