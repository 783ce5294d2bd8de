"""The reader's folder: each kind of good and bad one."""

from pathlib import Path

import numpy as np
import pytest
from bad_input import rows
from PIL import Image

from helpers.data import FolderError, image_folder
from helpers.images import center_crop, read_image


def save_image(path, seed, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), np.uint8)
    Image.fromarray(noise).save(path)


def classes(root, counts, start=0):
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            save_image(root / name / f"{number:03d}.png", start := start + 1)
    return root


def test_one_folder_per_class(tmp_path):
    splits = image_folder(classes(tmp_path, {"dog": 10, "cat": 10}), 16)
    assert splits.train.class_names == ("cat", "dog") and splits.test.source == f"images in {tmp_path.name}"
    assert [part.images.shape for part in splits] == [(12, 16, 16, 3), (4, 16, 16, 3), (4, 16, 16, 3)]
    assert len({image.tobytes() for part in splits for image in part.images}) == 20, "every image is in one part only"
    squares = [center_crop(read_image(file), 16, fraction=1.0) for file in splits.test.files]
    assert np.array_equal(squares, splits.test.images)


@pytest.mark.parametrize("name", ["", "val", "Validation"])
def test_train_test_and_perhaps_validation_folders(tmp_path, name):
    for start, part in ((0, "train"), (100, "test"), (200, name)):
        classes(tmp_path / part, {"a": 10, "b": 5} if part else {}, start)
    splits = image_folder(tmp_path, 8)
    assert [len(part) for part in splits] == ([15, 15, 15] if name else [12, 3, 15])
    of_part = {part.parts[-3] for part in map(Path, splits.validation.files)}
    assert of_part == {name or "train"} and splits.validation.class_names == ("a", "b")


@pytest.mark.parametrize(("counts", "sentence"), rows("folders"))
def test_folders_that_cannot_be_divided_are_refused(tmp_path, counts, sentence):
    """Too little in them, or parts for training and testing that do not match."""
    with pytest.raises(FolderError, match=sentence):
        image_folder(classes(tmp_path, counts), 8)


def test_files_of_unread_kinds_are_named(tmp_path):
    (classes(tmp_path, {"a": 5, "b": 1}) / "b" / "x.HEIC").touch()
    with pytest.raises(FolderError, match=r"in b \(1\): .*JPEG, PNG.*; 1 files of kind .heic are not read"):
        image_folder(tmp_path, 8)


def test_copies_of_training_images_leave_the_test_set(tmp_path, capsys):
    classes(tmp_path / "train", {"a": 10, "b": 10})
    classes(tmp_path / "test", {"a": 5, "b": 5}, start=16)  # four of these are among the training images
    splits = image_folder(tmp_path, 8)
    known = {image.tobytes() for part in splits[:2] for image in part.images}
    assert len(splits.test) and not known & {image.tobytes() for image in splits.test.images}
    assert "copies of others" in capsys.readouterr().err


def test_unreadable_files_are_left_out_and_said(tmp_path, capsys):
    classes(tmp_path, {"a": 5, "b": 5})
    for name in ("a/broken.jpg", "a/notes.txt", "b/empty.png"):
        (tmp_path / name).write_text("no image")
    assert sum(len(part) for part in image_folder(tmp_path, 8)) == 10
    said = capsys.readouterr().err
    assert "2 of 12 files left out" in said and "broken.jpg" in said


def test_per_class_limits_what_is_read(tmp_path):
    classes(tmp_path, {"a": 30, "b": 8})
    splits = image_folder(tmp_path, 4, max_per_class=10)
    assert sum((part.labels == 0).sum() for part in splits) == 10
    same = image_folder(tmp_path, 4, max_per_class=10)
    assert all((a.images == b.images).all() for a, b in zip(splits, same, strict=True)), "the same draw each time"


def test_only_copies(tmp_path):
    for number in range(10):
        save_image(tmp_path / "ab"[number % 2] / f"{number}.png", 7)
    with pytest.raises(FolderError, match="too few different images"):
        image_folder(tmp_path, 8)


@pytest.mark.parametrize(("given", "sentence"), rows("ways to read a folder"))
def test_bad_arguments(tmp_path, given, sentence):
    classes(tmp_path, {"a": 5, "b": 5})
    with pytest.raises(FolderError, match=sentence):
        image_folder(tmp_path / given["path"], given["size"], given["max_per_class"])
