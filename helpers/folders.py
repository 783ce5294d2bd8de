"""The reader's own pictures: a folder with one folder per class."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from helpers.data import ImageSet, Splits, stratified_splits
from helpers.files import progress_off
from helpers.pictures import ImageError, center_crop, read_image

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp"}
LEAST = 3  # pictures per class: one each for training, validation and test


class FolderError(ValueError):
    """A folder cannot serve as a data set; the message names it and the remedy."""


def image_folder(path: str | Path, size: int = 32, per_class: int = 1000, seed: int = 0) -> Splits:
    """The pictures below `path`, one folder per class; or train/ and test/ with one folder per class.

    Each picture is cropped to its central square and scaled: uint8, (n, size, size, 3). A class takes the
    pictures in folders inside it too. At most `per_class` of each class, drawn at random. Without test/,
    3/5 train, 1/5 validation, 1/5 test of every class; with it, 1/5 of train/ is for validation. What
    cannot be read is left out, and so are copies of training pictures elsewhere; both are said on stderr.
    Raises FolderError (no such folder, fewer than two classes, a class with fewer than three pictures).
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise FolderError(f"{root} is not a folder: give one that holds a folder of pictures for each class")
    if size < 1 or per_class < LEAST:
        raise FolderError(f"size {size} must be at least 1 and per_class {per_class} at least {LEAST}")
    source = f"pictures in {root.absolute().name}"
    parts = {part.name.lower(): part for part in _folders(root)}
    if set(parts) == {"train", "test"}:
        known, test = (_read(parts[name], source, size, per_class, seed) for name in ("train", "test"))
        if odd := ", ".join(sorted(set(known.class_names) ^ set(test.class_names))[:5]):
            raise FolderError(f"{root}: train and test have different classes ({odd}): each needs the same folders")
        splits = stratified_splits(known, validation=0.2, test=0.0, seed=seed)._replace(test=test)
    else:
        splits = stratified_splits(_read(root, source, size, per_class, seed), validation=0.2, test=0.2, seed=seed)
    return _without_copies(splits)


def _visible(path: Path) -> bool:
    return not path.name.startswith((".", "__"))


def _folders(root: Path) -> list[Path]:
    """The folders in `root` that are not hidden, by name."""
    return sorted(folder for folder in root.iterdir() if folder.is_dir() and _visible(folder))


def _read(root: Path, source: str, size: int, per_class: int, seed: int) -> ImageSet:
    """All classes of one folder, as one set. Raises FolderError."""
    classes = _folders(root)
    if len(classes) < 2:
        hint = "two or more are needed"
        if any(file.suffix.lower() in SUFFIXES for file in root.iterdir()):
            hint = "its pictures lie side by side: sort them into one folder per class"
        raise FolderError(f"{root} holds {len(classes)} class folder{'s' * (len(classes) != 1)}; {hint}")
    random = np.random.default_rng(seed)
    chosen = []
    for label, folder in enumerate(classes):
        files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES and _visible(f) and f.is_file())
        chosen += [(label, file) for file in random.permutation(files)[:per_class]]
    images, labels, unreadable = [], [], []
    for label, file in tqdm(chosen, desc=f"reading {root.name}", unit="picture", leave=False, disable=progress_off()):
        try:
            images.append(center_crop(read_image(file), size, fraction=1.0))
            labels.append(label)
        except ImageError as error:
            unreadable.append(str(error))
    if unreadable:
        print(f"{root}: {len(unreadable)} of {len(chosen)} files left out; the first: {unreadable[0]}", file=sys.stderr)
    count = Counter(labels)
    if poor := [f"{folder.name} ({count[label]})" for label, folder in enumerate(classes) if count[label] < LEAST]:
        which = ", ".join(poor[:5]) + (f" and {len(poor) - 5} more" if len(poor) > 5 else "")
        remedy = f"every class needs at least {LEAST}. Add pictures, or move these folders away"
        raise FolderError(f"{root}: too few pictures in {which}: {remedy}")
    names = tuple(folder.name for folder in classes)
    return ImageSet(np.stack(images), np.array(labels, np.int64), names, source, "the reader's own")


def _digests(part: ImageSet) -> list[bytes]:
    return [hashlib.sha256(image.tobytes()).digest() for image in part.images]


def _without_copies(splits: Splits) -> Splits:
    """Validation and test without pictures that are also in a part before them, pixel by pixel. Raises FolderError."""
    kept, seen = [splits.train], set(_digests(splits.train))
    for part in (splits.validation, splits.test):
        digests = _digests(part)
        kept.append(part.take(np.array([digest not in seen for digest in digests], bool)))
        seen.update(digests)
    if left_out := sum(map(len, splits)) - sum(map(len, kept)):
        print(f"{left_out} pictures left out of validation and test: copies of others", file=sys.stderr)
    for name, part in zip(splits._fields, kept, strict=True):
        if not len(part):
            raise FolderError(f"no picture is left for {name}: the folder holds too few different pictures")
    return Splits(*kept)
