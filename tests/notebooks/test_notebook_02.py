"""Notebook 02: what it promises, with the reader's own pictures, and with ResNet50 in place of the stand-in."""

import csv
import io
import re
from pathlib import Path

import h5py
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

from helpers import assets, data, weights  # before keras

import keras  # isort: skip
from keras.src.legacy.saving import legacy_h5_format  # isort: skip

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
PATH = FOLDER / "02_resnet50_imagenet.ipynb"


def cells():
    return nbformat.read(PATH, as_version=4).cells


def tagged(tag: str) -> str:
    return next(cell.source for cell in cells() if tag in cell.metadata.get("tags", []))


@pytest.fixture(scope="module")
def said() -> str:
    """Everything that the committed notebook prints; nbval proves that a new run prints the same."""
    outputs = [output for cell in cells() if cell.cell_type == "code" for output in cell.outputs]
    return "\n".join(output.text for output in outputs if output.output_type == "stream")


def run(new_cells, parameters: str = "", before: str = "") -> str:
    """Execute the cells with other parameters, in the notebook's folder; what they printed."""
    notebook = nbformat.v4.new_notebook(cells=new_cells)
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    code[0].source += f"\n{parameters}"
    code[2].source += f"\n{before}"
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(FOLDER)}}).execute()
    outputs = [output for cell in code for output in cell.outputs]
    assert all("Traceback" not in str(output) for output in outputs)
    return "\n".join(output.text for output in outputs if output.output_type == "stream")


def until(marker: str) -> list:
    """The cells up to and with the first one that contains `marker`."""
    found = cells()
    last = next(number for number, cell in enumerate(found) if cell.cell_type == "code" and marker in cell.source)
    return found[: last + 1]


# ---- what the committed notebook shows ----------------------------------------------------------


def test_seventeen_of_twenty(said):
    top1, top5 = map(int, re.search(r"top-1: (\d+) of 20 right; top-5: (\d+) of 20", said).groups())
    assert top1 >= 17 and top5 >= 19


def test_the_line_of_the_article(said):
    line = re.search(r"^Predicted: (\[.+\])$", said, re.MULTILINE)[1]
    classes = {name: wnid for wnid, name in data.imagenet_classes()}
    found = re.findall(r"\('(n\d{8})', '(\w+)', (0\.\d+)\)", line)
    assert len(found) == 3 and all(classes[name] == wnid for wnid, name, _ in found)
    assert {name for _, name, _ in found} <= {"Egyptian_cat", "tiger_cat", "tabby", "lynx"}
    assert [float(p) for *_, p in found] == sorted((float(p) for *_, p in found), reverse=True)


def test_shapes_and_ranges_of_the_steps(said):
    steps = re.findall(r"^(\d)  .*?shape (\(.+?\)) +(\w+), (\S+) to (\S+)$", said, re.MULTILINE)
    assert [(n, shape) for n, shape, *_ in steps] == [
        ("2", "(224, 224, 3)"), ("3", "(1, 224, 224, 3)"), ("4", "(1, 224, 224, 3)"), ("5", "(1, 1000)")
    ]  # fmt: skip
    assert 100 < float(steps[0][4]) <= 255 and -1 <= float(steps[2][3]) < 0 < float(steps[2][4]) <= 1.01


def test_which_network_is_said_in_one_line(said):
    (line,) = re.findall(r"^.*takes ResNet50's place.*$", said, re.MULTILINE)
    assert line.startswith("EfficientNet-Lite0 takes ResNet50's place from here on: resnet50_weights_tf_dim_ordering")
    assert "25,636,712 parameters" in said


def test_the_elephant_is_quoted_as_the_articles():
    text = "\n".join(cell.source for cell in cells() if cell.cell_type == "markdown")
    quoted = text[text.index("There it prints") :][:400]
    assert "quoted, not run here" in quoted and "(u'n02504013', u'Indian_elephant', 0.82658225)" in quoted


@pytest.fixture(scope="module")
def table(said) -> dict[str, tuple[int, int, float]]:
    rows = re.findall(r"^(\S.{25,27}?) +(\d+) +(\d+) +(0\.\d\d)$", said, re.MULTILINE)
    return {name.strip(): (int(top1), int(top5), float(p)) for name, top1, top5, p in rows}


def test_what_wrong_preprocessing_costs(table):
    assert len(table) == 10 and table["right"][:2] >= (17, 19)
    assert table["-1 to 1 (x / 127.5 - 1)"][:2] == table["right"][:2]
    assert table["none (0 to 255)"][0] <= 2 and table["ResNet50's recipe"][0] <= 6
    assert table["channels swapped (BGR)"][0] < table["right"][0]
    assert table["0 to 1 (x / 255)"][2] < table["right"][2]
    assert table["wrong size (112 pixels)"][0] < table["right"][0]
    assert table["upright strip, stretched"][2] < table["upright strip, cropped"][2]


def test_maps_find_the_class_and_random_weights_do_not(said):
    of_cat, of_dog = (
        int(re.search(rf"^{n} +(\d+)% of the map", said, re.M)[1]) for n in ("Egyptian cat", "bull mastiff")
    )
    assert of_cat > 85 and of_dog < 30
    trained, *random = map(int, re.findall(r"(\d+)%", re.search(r"on the cat's half: .+", said)[0]))
    assert trained == of_cat and len(random) == 6 and np.mean(random) < 70


# ---- the parameters -----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "value", "message"), [
    ("CSV", "predictions.csv", "CSV = 'predictions.csv': it is for the predictions of IMAGES"),
    ("OCCLUSION_STEP", 1, "OCCLUSION_STEP = 1: 2 to 48"),
    ("OCCLUSION_STEP", 49, "OCCLUSION_STEP = 49: 2 to 48"),
    ("TIMED_IMAGES", 31, "TIMED_IMAGES = 31: 32"),
    ("TIMED_IMAGES", 4097, "TIMED_IMAGES = 4097: 32"),
    ("SEED", -1, "SEED = -1: a whole number from 0"),
    ("SEED", 2**32, "SEED = 4294967296: a whole number from 0"),
])  # fmt: skip
def test_ranges(name, value, message):
    values = {}
    exec(tagged("parameters"), values)
    exec(tagged("check"), values)
    values[name] = value
    with pytest.raises(ValueError, match=re.escape(message)):
        exec(tagged("check"), values)


def test_own_pictures(tmp_path):
    """A folder with two good pictures, one with a Chinese name, and two bad files; the table as CSV."""
    folder = tmp_path / "my holiday"
    folder.mkdir()
    Image.fromarray(data.sample_image("chelsea")).save(folder / "猫 1.png")
    Image.fromarray(data.sample_image("coffee")).convert("CMYK").save(folder / "coffee.jpg")
    (folder / "notes.jpg").write_text("no picture")
    (folder / "gone.png").symlink_to("nowhere")
    said = run(until("writerows(rows)"), f"IMAGES = {str(folder)!r}\nCSV = {str(tmp_path / 'table.csv')!r}")
    assert re.search(r"^not read: .*notes.jpg is not a picture", said, re.M)
    assert re.search(r"^not read: .*gone.png: no such file; the link points to nothing", said, re.M)
    assert "coffee.jpg: espresso 0.9" in said and re.search(r"^猫 1.png: (tiger|Egyptian)_cat", said, re.M)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text(encoding="utf-8"))))
    assert [row["picture"] for row in rows] == ["coffee.jpg"] * 5 + ["gone.png", "notes.jpg"] + ["猫 1.png"] * 5
    assert [row["rank"] for row in rows[:5]] == list("12345") and rows[0]["wnid"] == "n07920052"
    assert float(rows[0]["probability"]) > 0.9 and rows[5]["rank"] == "" and "no such file" in rows[5]["problem"]


# ---- ResNet50 -----------------------------------------------------------------------------------


def test_with_resnet50(tmp_path):
    """The same cells with ResNet50. Its weights are random here, in the form of the official file, and the
    test declares their digest; what is checked is that every step works, not what is seen."""
    file = tmp_path / weights._RESNET50
    with h5py.File(file, "w") as stored:
        legacy_h5_format.save_weights_to_hdf5_group(stored, keras.applications.ResNet50(weights=None))
    declared = f"helpers.weights._RESNET50_DIGEST = 'sha256:{assets.file_digest(file)}'"
    found = cells()
    start = {title: next(n for n, cell in enumerate(found) if f"## {title}" in cell.source)
             for title in ("From edges to parts", "How sure is it?", "One at a time")}  # fmt: skip
    # VGG16 is the same with either network, and the measurement of speed takes long
    used = found[: start["From edges to parts"] + 1] + found[start["How sure is it?"] : start["One at a time"]]
    used.append(nbformat.v4.new_code_cell(
        "print(network.name, pixels.min() >= 0, np.allclose(results['right'], probabilities, atol=1e-6))"
    ))  # fmt: skip
    said = run(used, f"RESNET50_WEIGHTS = {str(file)!r}\nOCCLUSION_STEP = 48", declared)
    assert "takes ResNet50's place" not in said and "EfficientNet-Lite0: ImageNet weights" not in said
    assert f"ResNet50: official ImageNet weights from {file.name}, MD5 verified" in said
    assert "the last feature map: conv5_block3_out, shape (7, 7, 2048)" in said
    assert said.rstrip().endswith("resnet50 True True")


def test_wrong_resnet50_is_no_reason_for_the_stand_in(tmp_path):
    file = tmp_path / weights._RESNET50
    file.write_bytes(b"something else")
    with pytest.raises(Exception, match="is not the expected file"):
        run(until("models.resnet50("), f"RESNET50_WEIGHTS = {str(file)!r}")
