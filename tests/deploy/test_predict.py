"""predict.py: a folder of images becomes a table, by the rules by which training reads, and without TensorFlow."""

import csv
import io
import re
import subprocess
import sys

import numpy as np
import pytest
from bad_input import damage, rows
from odd_images import BLOCKS, ODD, encoded
from PIL import Image
from tiny_model import write

from deploy import predict
from helpers.images import center_crop

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")  # what Pillow says of damaged TIFF files
NAMES = ["plain.png", "with space.png", "quo\"te's.png", "{braces}.png", "<script>alert(1)<script>.png", "ü\n漢.png"]
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 0, 0), (120, 119, 118), (0, 0, 250)]


def run(*arguments):
    """The program without all that the series needs and predict.py does not."""
    blocked = dict.fromkeys(("tensorflow", "keras", "helpers", "cv2", "sklearn", "scipy", "matplotlib", "onnx"))
    program = f"runpy.run_path({predict.__file__!r}, run_name='__main__')"
    code = f"import sys, runpy; sys.modules.update({blocked}); {program}"
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)


@pytest.mark.parametrize("kind", ODD)
def test_odd_images_are_read_as_the_series_reads_them(kind):
    content, pixels, _ = ODD[kind]
    for size in (32, 160):
        mine = predict.read(io.BytesIO(content), size, kind)
        theirs = center_crop(pixels, size, fraction=1.0)
        assert mine.shape == (size, size, 3) and mine.dtype == np.uint8
        assert np.abs(mine.astype(int) - theirs).mean() < 4, "another way to scale, not another image"


def test_a_folder_becomes_a_table(tmp_path):
    model, images = write(tmp_path / "model", refuse_below=0.9), tmp_path / "images"
    (images / "inner folder").mkdir(parents=True)
    for name, colour in zip(NAMES, COLOURS, strict=True):
        Image.new("RGB", (40, 50), colour).save(images / name)
        Image.new("RGB", (40, 50), "blue").save(images / "inner folder" / name)
    (images / "empty.jpg").write_bytes(b"")
    (images / "notes.txt").write_text("no image")
    done = run(model, images, tmp_path / "table.csv")
    assert done.returncode == 0 and "13 images, 1 refused, 1 not readable" in done.stdout, done.stderr
    with open(tmp_path / "table.csv", newline="", encoding="utf-8") as file:
        table = {row.pop("file"): row for row in csv.DictReader(file)}
    assert set(table) == {*NAMES, *(f"inner folder/{name}" for name in NAMES), "empty.jpg"}
    answering = predict.Model(model)
    for name, colour in zip(NAMES, COLOURS, strict=True):
        probabilities, _ = answering.predict(predict.read(images / name, 32))
        assert table[name]["class"] == answering.classes[int(np.argmax(colour))]
        assert float(table[name]["probability"]) == pytest.approx(probabilities.max(), abs=1e-6)
        assert table[name]["refused"] == ("yes" if probabilities.max() < 0.9 else "no")
    assert table["empty.jpg"]["class"] == "" and "empty.jpg" in table["empty.jpg"]["refused"]


def test_the_threshold_of_two_classes_decides(tmp_path):
    model = write(tmp_path / "m", classes=["sound", "broken"], positive=1, threshold=0.2, refuse_below=0.6)
    answering = predict.Model(model)
    assert answering.decide(np.array([0.79, 0.21])) == (1, 0.21, False)
    assert answering.decide(np.array([0.81, 0.19])) == (0, 0.81, False)
    assert answering.decide(np.array([0.45, 0.55]))[2]


@pytest.mark.parametrize(("given", "sentence"), rows("models and folders to predict"))
def test_what_cannot_work_ends_in_a_sentence_and_leaves_nothing(tmp_path, given, sentence):
    """given: what is damaged, what the model says about itself, or where the table should go."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "images" / "a.png")
    model = write(tmp_path / "model", **given.get("about", {"refuse_below": 0.9}))
    damage(tmp_path / given.get("file", "model/model.onnx"), given)
    target = tmp_path / given.get("table", "table.csv")
    done = run(model, tmp_path / "images", target)
    assert done.returncode == 1 and re.search(sentence, done.stderr) and done.stderr.count("\n") == 1, done.stderr
    assert not target.is_file() and not list(tmp_path.glob("*.new"))


def test_no_program_is_started_and_no_giant_unpacked(tmp_path):
    (tmp_path / "renamed.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")
    Image.new("1", (60_000, 10)).save(tmp_path / "wide.png")
    for name, said in {"renamed.jpg": "Unidentified", "wide.png": "too many"}.items():
        with pytest.raises(ValueError, match=f"{name}.*{said}"):
            predict.read(tmp_path / name, 32)


def test_any_bytes_are_an_image_or_a_sentence():
    random, whole = np.random.default_rng(0), {}
    for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"):
        whole[kind] = np.frombuffer(encoded(BLOCKS[:20, :20], kind), np.uint8)
    for _ in range(300):
        content = whole[random.choice(list(whole))].copy()
        content[random.integers(len(content), size=random.integers(1, 9))] = random.integers(256)
        content = content[: random.integers(len(content) + 1)] if random.random() < 0.5 else content
        try:
            assert predict.read(io.BytesIO(content.tobytes()), 32, "x").shape == (32, 32, 3)
        except ValueError as error:
            assert str(error).startswith("x: ")
