"""Notebook 02: what it prints is true of the network that answers, whichever it is; the reader's own images."""

import csv
import io
import re

import nbformat
import numpy as np
import pytest
import random_resnet50
from nbclient import NotebookClient
from PIL import Image
from reference import REPOSITORY
from scipy import stats

from experiments import lesson
from helpers import assets, data, models, weights  # before keras

import keras  # isort: skip

FOLDER = REPOSITORY / "notebooks"
CELLS = nbformat.read(FOLDER / "02_resnet50_imagenet.ipynb", as_version=4).cells
PROSE = "\n\n".join(cell.source for cell in CELLS if cell.cell_type == "markdown")


def printed(cells) -> str:
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.text for output in outputs if output.output_type == "stream")


def source(marker: str) -> str:
    (cell,) = [cell for cell in CELLS if cell.cell_type == "code" and marker in cell.source]
    return cell.source


def find(pattern: str, text: str) -> list[str]:
    return list(re.search(pattern, text).groups())


# ---- every computed sentence, with either network -------------------------------------------------


@pytest.fixture(scope="module")
def default() -> str:
    """What the committed notebook prints; nbval proves that a new run prints the same."""
    return printed(CELLS)


@pytest.fixture(scope="module")
def resnet50(tmp_path_factory) -> str:
    """The whole page with random weights; fewer squares, pieces and steps, since ResNet50 is ten times the work."""
    file = tmp_path_factory.mktemp("weights") / weights._RESNET50
    _, digest = random_resnet50.write(file)
    thinner = {"range(0, 161, 40)": "(0, 80, 160)", "range(0, 161, 16)": "(0, 80, 160)", "cat, 144, 20": "cat, 144, 80",
               "range(5, 49, 5)": "(10, 30)", "size in (1, 4, 16, 32)": "size in (16, 32)"}  # fmt: skip
    cells = nbformat.from_dict([dict(cell) for cell in CELLS if cell.cell_type == "code"])
    for old, new in thinner.items():
        (cell,) = [cell for cell in cells if old in cell.source]
        cell.source = cell.source.replace(old, new)
    cells[0].source += f"\nRESNET50_WEIGHTS = {str(file)!r}\nOCCLUSION_STEP = 48"
    cells[2].source += f"\nweights._RESNET50_DIGEST = {digest!r}"
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": ""}})
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(FOLDER)}}).execute()
    return printed(notebook.cells)


@pytest.mark.slow
@pytest.mark.parametrize("run", ["default", "resnet50"])
def test_what_is_said_follows_from_what_is_measured(run, request):
    said = request.getfixturevalue(run)
    name, other = ("EfficientNet-Lite0", "ResNet50") if run == "default" else ("ResNet50", "EfficientNet-Lite0")
    (who,) = set(re.findall(r"^(\S+): top-1", said, re.M))
    assert who == name and ("in place of ResNet50" in said) == (run == "default")
    assert ("SHA-256 verified" if run == "default" else "MD5 verified") in said.split("Predicted")[0]
    # the published answers
    rows = re.findall(r"published +(\S+) % +(\S+), here +(\S+) %", said)
    largest = max(abs(float(published) - float(here)) for published, _, here in rows)
    assert len(rows) == 6 and {who for _, who, _ in rows} == {name}
    verdict = {"default": f"{name} is another network", "resnet50": rf"difference {int(largest)}\.\d\d points: NOT"}
    assert re.search(verdict[run], said)
    # recipes, and the paired comparisons
    table = re.findall(r"^(.{36}) +(\d+) +(\d+) +(\d\.\d\d) +(own recipe|silent|loud)$", said, re.M)
    paired = {row[0]: row[1:] for row in re.findall(
        r"^(.{36}) +(\d+) lost, (\d+) won, P = (\S+) +(\d+) of 20, P = (\S+)$", said, re.M)}  # fmt: skip
    (own,) = [row for row in table if row[4] == "own recipe"]
    assert len(table) == 10 and len(paired) == 9 and own[0].startswith(("EfficientNet", "ResNet50")[run == "resnet50"])
    assert find(rf"{name}: top-1 (\d+) of 20 right, top-5 (\d+)", said) == list(own[1:3])
    for recipe, top1, _, _, kind in table:
        if recipe != own[0]:
            lost, won, p, lower, p_lower = map(float, paired[recipe])
            assert int(top1) == int(own[1]) - lost + won
            assert kind == ("silent" if 4 * lost <= int(own[1]) else "loud")
            assert p == pytest.approx(2 * stats.binom.cdf(min(lost, won), lost + won, 0.5) if lost != won else 1, 0.01)
            assert p_lower == pytest.approx(min(1, 2 * stats.binom.cdf(min(lower, 20 - lower), 20, 0.5)), rel=0.01)
    # calibration, surest answers, maps
    promised, right = find(r"add up to (\S+); (\d+) answers are right", said)
    p, verdict = find(r"has P = (\S+): \S+ is (.+)", said)
    side = "underconfident" if int(right) > float(promised) else "overconfident"
    side = "not to be told" if float(p) >= 0.05 else side
    assert right == own[1] and verdict.startswith(side)
    k, surest, chance = find(r"of the (\d+) surest (\d+) are right; of \d+ drawn.* P = (\S+)", said)
    assert float(chance) == pytest.approx(stats.hypergeom.sf(int(surest) - 1, 20, int(right), int(k)), abs=0.005)
    lines = [line for line in said.splitlines() if "EfficientNet-Lite0" in line or "ResNet50" in line]
    allowed = r"published|in place of|resnet50_weights|BGR - mean|wants|packag"
    assert not [line for line in lines if other in line and not re.search(allowed, line)]


def test_what_the_default_network_shows(default):
    """The findings that the prose builds on."""
    assert min(map(int, find(r"top-1 (\d+) of 20 right, top-5 (\d+)", default))) >= 17
    means = dict(re.findall(r"^(\S.+?)  +\d+ +\d+ +(\d\.\d\d) ", default, re.M))
    twice, large, rim, copies = (float(p) for name, p in means.items() if "old size" in name or "twice" in name)
    assert twice > 0.5 > 0.3 > copies > large > rim  # the input size, not the size of the objects
    assert float(find(r"goldfish 0.00 before, (\S+) after", default)[0]) > 0.95
    before, after = find(r"convertible: (\S+); with the square at Grad-CAM's maximum (\S+),", default)
    assert float(after) < float(before) / 3
    assert float(find(r"takes more than most of the 25 squares do, P = (\S+);", default)[0]) < 0.01


def test_a_paragraph_that_quotes_a_result_names_the_network():
    body = PROSE[PROSE.index("# Part one") : PROSE.index("## What you can now say")]
    for paragraph in re.sub(r"```.*?```", "", body, flags=re.S).split("\n\n"):
        quoted = re.findall(r"(?<![\d.])0\.\d\d(?!\d)|\d+ of (?:the )?\d{2,}", paragraph)
        if set(quoted) - {"0.05", "0.87"}:
            assert re.search("EfficientNet-Lite0|quoted, not run", paragraph), paragraph


def test_the_article_s_program_runs_in_keras_3(tmp_path, monkeypatch, capsys):
    (program,) = re.findall(r"```python\n(import keras.*?)```", PROSE, re.S)
    build = keras.applications.ResNet50
    monkeypatch.setattr(keras.applications.resnet50, "ResNet50", lambda weights: build(weights=None))
    monkeypatch.setattr(keras.applications.resnet50, "decode_predictions", models.decode_predictions)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(data.sample_image("chelsea")).save("elephant.jpg")
    exec(program, {})
    assert re.search(r"Predicted: \[\('n\d{8}', .+, [\d.e-]+\), ", capsys.readouterr().out)


# ---- the parameters -------------------------------------------------------------------------------


def test_own_images(tmp_path, capsys):
    """A folder with two good images and a bad one, and a folder of labelled ones, with the stronger network."""
    folder, labelled = tmp_path / "my holiday", tmp_path / "labelled" / "n02124075"
    for each in (folder, labelled):
        each.mkdir(parents=True)
        Image.fromarray(data.sample_image("chelsea")).save(each / "猫 1.png")
    Image.fromarray(data.sample_image("coffee")).convert("CMYK").save(folder / "coffee.jpg")
    (folder / "notes.jpg").write_text("no image")
    page = vars(lesson.load("02", NETWORK="EfficientNet-Lite2", IMAGES=str(folder), CSV=str(tmp_path / "table.csv"),
                            LABELLED=str(tmp_path / "labelled")))  # fmt: skip
    page |= {"probabilities": np.zeros((20, 1000)), "labels": np.zeros(20, int)}
    for marker in ("answering, network", "def classify", "read_images(IMAGES)", "if LABELLED"):
        exec(source(marker), page)
    said = capsys.readouterr().out
    assert re.search(r"^not read: .*notes.jpg is not an image", said, re.M) and "coffee.jpg  espresso 0.9" in said
    assert "EfficientNet-Lite2, 1 images: the confidences add up to 0." in said
    assert said.endswith("1 answers are right\n")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text(encoding="utf-8"))))
    assert [row["image"] for row in rows] == ["notes.jpg"] + ["coffee.jpg"] * 5 + ["猫 1.png"] * 5
    assert rows[0]["problem"] and rows[1]["wnid"] == "n07920052" and rows[5]["rank"] == "5"


def test_a_damaged_resnet50_is_no_reason_for_the_stand_in(tmp_path):
    (tmp_path / "weights.h5").write_bytes(b"something else")
    with pytest.raises(assets.FileError, match="is not the expected file"):
        exec(source("answering, network"), vars(lesson.load("02", RESNET50_WEIGHTS=str(tmp_path / "weights.h5"))))
