"""Notebook 05: its probe, its network and what it trains are what the page says; the record is whole."""

import json
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from bad_input import rows
from odd_images import write_folder
from scipy.special import softmax
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import lesson as lessons
from helpers.models import efficientnet_lite
from records import FOLDER

PAGE = Path(lessons.NOTEBOOKS, "05_own_images.ipynb")
KINDS = ((160, "frozen"), (192, "frozen"), (96, "frozen"), (96, "trained"))


@pytest.fixture(scope="module")
def shown():
    return lessons.load("05")


@pytest.mark.parametrize("classes", [2, 4])
def test_the_probe_answers_as_scikit_learn_on_raw_features(shown, classes):
    x, y = make_classification(300, 20, n_informative=8, n_classes=classes, random_state=0)
    x = x * np.arange(1, 21) + 7
    kernel, bias = shown.probe(x, y, classes + 1)
    scaler = StandardScaler().fit(x)
    theirs = LogisticRegression(C=shown.C, max_iter=300, tol=1e-2).fit(scaler.transform(x), y)
    ours = softmax(x @ kernel + bias, axis=1)
    assert np.abs(ours[:, :classes] - theirs.predict_proba(scaler.transform(x))).max() < 1e-3
    assert ours[:, classes].max() < 1e-6, "a class without images stays improbable"


def test_intervals_are_those_of_the_books(shown):
    assert shown.share(np.arange(10) < 8) == "80.0 % (49.0 to 94.3 %)"  # Wilson's interval for 8 of 10
    points, half = shown.gain([1, 1, 1, 0], [0, 1, 1, 0])
    assert points == 25 and half == pytest.approx(1.96 * 25)


def test_the_paper_split_is_in_proportion_and_shares_nothing(shown):
    strata = ["0.0 mono"] * 588 + ["1.0 poly"] * 402 + ["0.3 mono"] * 117
    parts = shown.paper_split(strata, 0)
    assert sorted(np.concatenate(parts)) == list(range(1107))
    assert [round(len(part) / 1107, 2) for part in parts] == [0.6, 0.15, 0.25]
    assert list(shown.groups_in(["cow-1.png", "cow-2.png"], r"(\w+)-")) == ["cow", "cow"]


@pytest.mark.parametrize(("given", "sentence"), rows("own images"))
def test_what_cannot_work_is_said_before_anything_is_computed(tmp_path, monkeypatch, given, sentence):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=59e6))
    write_folder(tmp_path, {"few": 4, "many": 8})
    page = lessons.load("05", IMAGES=str(tmp_path), **given)
    reading = next(c["source"] for c in json.loads(PAGE.read_text())["cells"] if "image_folder" in "".join(c["source"]))
    with pytest.raises(ValueError, match=sentence):
        exec("".join(reading), vars(page))


@pytest.mark.slow
def test_only_what_is_unfrozen_moves(shown):
    random = np.random.default_rng(0)
    images = random.integers(0, 255, (32, 64, 64, 3), np.uint8)
    whole = SimpleNamespace(images=images, labels=np.arange(32) % 2)
    for first, batchnorm, still in ((11, "frozen", "block10"), (0, "frozen", ""), (11, "trained", "block10")):
        head = 0.05 * random.normal(size=(1280, 2)), np.zeros(2)
        model = shown.classifier(efficientnet_lite(0, 64, include_top=False), *head)
        before = {layer.name: layer.get_weights() for layer in model.layers if layer.weights}
        network = keras.Model(model.input, model.outputs[0])
        shown.unfreeze(network, first, 1e-3, 4, batchnorm)
        shown.one_pass(network, whole, np.arange(32), "both", (0, 0))
        after = {name: model.get_layer(name).get_weights() for name in before}
        moved = {n for n in before if any((a != b).any() for a, b in zip(before[n], after[n], strict=True))}
        assert {"evidence", "head_conv", "block15_project_conv"} <= moved
        assert ("stem_conv" in moved, "block10_project_conv" in moved) == (not still, not still)
        assert any(name.endswith("_bn") for name in moved) == (batchnorm == "trained")


def test_the_record_is_whole():
    runs = [SimpleNamespace(**run) for run in json.loads((FOLDER / "05_own_images.json").read_text())["runs"]]
    assert all(0.5 < getattr(run, "test", 0.9) <= 1 and run.provenance for run in runs)
    folders = {(run.data, run.size): run.test for run in runs if run.experiment == "folder"}
    assert folders["ants and bees", 192] >= 0.93 and folders["cats and dogs", 160] >= 0.98
    tuned = [run for run in runs if run.experiment == "fine-tuning" and len(run.curve) == run.epochs]
    assert Counter((run.size, run.batchnorm) for run in tuned) == dict.fromkeys(KINDS, 3)
    longer = [run for run in tuned if run.size == 192]
    assert all(run.points_over_probe > run.half_interval for run in longer), "the page says so of each seed"
