"""Notebook 03: its functions do what the page says, its conclusions are the record's, and a folder goes all the way."""

import base64
import json
import re
from collections import Counter

import keras
import nbformat
import numpy as np
import papermill
import pytest
from bad_input import rows
from odd_images import write_folder
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from experiments import lesson
from helpers import data, models
from helpers.images import resize

PAGE = next(lesson.NOTEBOOKS.glob("03_*.ipynb"))
INTERVAL = r"([-+.\d]+) points \[([-+.\d]+), ([-+.\d]+)\]"
CASE = rf"^    (.{{14}}) +([\d,]+) images, (?:\d seeds?|(\w+ network)) +{INTERVAL}  (.+)$"
SMALLEST = {"SMALL": 60, "LARGE": 120, "VALIDATION": 60, "PASSES": 1, "SCRATCH_PASSES": 3}


@pytest.fixture(scope="module")
def notebook():
    return lesson.load("03")


@pytest.fixture(scope="module")
def runs():
    return json.loads((lesson.NOTEBOOKS / "recorded" / "03_transfer.json").read_text())["runs"]


@pytest.mark.parametrize("classes", [2, 3])
def test_the_output_layer_is_the_logistic_regression(notebook, classes):
    random = np.random.default_rng(0)
    labels = np.arange(60) % classes
    x = 5 + random.normal(size=(60, 4)) * [1, 10, 0.1, 3] + labels[:, None]
    weights, biases = notebook.linear_probe(x, labels, 0.1)
    scaler = StandardScaler().fit(x)
    expected = LogisticRegression(C=0.1, max_iter=500, tol=1e-3).fit(scaler.transform(x), labels)
    assert weights.shape == (4, classes)
    said = softmax(x @ weights + biases, axis=1)
    assert np.allclose(said, expected.predict_proba(scaler.transform(x)), atol=1e-6)


def test_variants_of_an_image(notebook):
    images = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), dtype=np.uint8)
    made = {kind: notebook.variants(images, kind) for kind in ("photographs", "cells", "digits")}
    assert {kind: len(one) for kind, one in made.items()} == {"photographs": 10, "cells": 4, "digits": 5}
    assert all((one[0] == images).all() and one.shape[1:] == images.shape for one in made.values())
    mirrored = {kind: any((one == images[:, :, ::-1]).all() for one in versions) for kind, versions in made.items()}
    assert mirrored == {"photographs": True, "cells": True, "digits": False}
    versions = np.arange(20).reshape(2, 10)
    batches = notebook.OneVariant(versions, np.arange(10), np.array([3, 5, 8]), seed=0)
    x, y = (np.concatenate(parts) for parts in zip(*(batches[i] for i in range(len(batches))), strict=True))
    assert len(x) >= 256 and set(y) == {3, 5, 8} and (x % 10 == y).all() and set(x // 10) == {0, 1}


def test_fit_ends_at_the_least_validation_loss_and_may_be_the_start(notebook):
    x = np.linspace(-1, 1, 64)[:, None].astype(np.float32)
    y = (x[:, 0] > 0).astype(int)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2, activation="softmax")])
    model.compile(keras.optimizers.Adam(0.1), "sparse_categorical_crossentropy", metrics=["accuracy"])
    for labels, expected in ((y, "later"), (1 - y, "start")):  # the second validation set is against the training set
        model.layers[0].set_weights([np.zeros((1, 2)), np.zeros(2)])
        batches = notebook.OneVariant(x[None], y, np.arange(64), seed=0)
        curves = notebook.fit(model, batches, (x, labels), 4, notebook.gently(0.1, 4, 9))
        best = curves["val_loss"].argmin()
        assert model.evaluate(x, labels, verbose=0)[0] == pytest.approx(curves["val_loss"][best], abs=1e-6)
        assert (best == 0) == (expected == "start")


def test_the_paired_interval(notebook):
    random = np.random.default_rng(1)
    second = random.random((3, 400)) < 0.7
    better = second | (random.random((3, 400)) < 0.2)
    difference, lower, upper = notebook.paired(better, second)
    assert difference == pytest.approx(100 * (better.mean() - second.mean())) and 0 < lower < difference < upper
    assert notebook.said(difference, lower, upper).endswith("better")
    assert notebook.paired(second, better) == pytest.approx((-difference, -upper, -lower), abs=0.3)
    assert "not told apart" in notebook.said(*notebook.paired(second[0], random.permutation(second[0])))
    error = 100 * (better[0].astype(float) - second[0]).std() / 20
    single = notebook.paired(better[0], second[0])
    assert (single[2] - single[1]) / 2 == pytest.approx(1.96 * error, rel=0.1)


def test_near_copies_are_found_and_kept_in_one_part(notebook):
    """Photographs that are mirrored, saved again or shot in a burst are found among others, at the page's limit."""
    photos = data.imagenet_images().images
    known = [*data.photo_tiles(64).train.images[::6], *(resize(photo, 64) for photo in photos)]
    copies = {kind: [] for kind in notebook.altered(photos[0][None])}
    for photo in photos:
        for kind, copy in notebook.altered(photo[None]).items():
            copies[kind] += [resize(np.ascontiguousarray(copy[0]), 64)]
    features = notebook.pooled_features(models.efficientnet_lite0(64, include_top=False))
    limit = float(re.search(r"LIMIT = (\S+)", PAGE.read_text(encoding="utf-8"))[1])
    for kind, some in copies.items():
        groups = notebook.near_copies(features(np.stack([*known, *some])), limit)
        photos_groups = groups[-2 * len(photos) : -len(photos)]
        assert (groups[-len(photos) :] == photos_groups).sum() >= 18 and len(set(photos_groups)) == len(photos), kind
    part = data.photo_tiles(64).test.take(np.arange(3))
    kept = notebook.keep_together(data.Splits(part, *(part.take(np.arange(2)) for _ in range(2))), np.arange(7) % 4)
    assert [len(part) for part in kept] == [3, 1, 0]


@pytest.mark.parametrize(("counts", "sentence"), rows("folders for notebook 03"))
def test_a_folder_with_too_little_is_refused_in_a_sentence(notebook, tmp_path, counts, sentence):
    with pytest.raises(data.FolderError, match=sentence):
        notebook.read_folder(write_folder(tmp_path / "root", counts) if counts else tmp_path)


@pytest.mark.slow
def test_a_folder_of_two_classes_goes_through_the_whole_notebook(tmp_path):
    folder = write_folder(tmp_path / "mine", {"good": 60, "bad": 25})
    parameters = {"IMAGES": str(folder), "KIND": "cells", **SMALLEST}
    out = tmp_path / "out.ipynb"
    papermill.execute_notebook(PAGE, out, parameters, cwd=PAGE.parent, progress_bar=False, kernel_name="python3")
    text = json.dumps(nbformat.read(out, as_version=4).cells)
    assert "your images: 2 classes" in text and "large and similar" in text


def right_answers(run):
    return np.unpackbits(np.frombuffer(base64.b64decode(run["right"]), np.uint8))[: run["tested"]]


def test_every_recorded_run_is_whole(runs):
    for run in (run for run in runs if run["strategy"] != "advice"):
        assert {"data", "strategy", "rate", "seed", "n", "validation", "test", "seconds", "provenance"} <= set(run), run
        assert right_answers(run).mean() == pytest.approx(run["test"], abs=1e-4), run


def test_later_sizes_and_seeds_keep_the_rate_that_was_chosen_on_validation_images(runs):
    groups = {}
    for run in (run for run in runs if run["strategy"] in ("probe", "train")):
        what = (run["data"], run["strategy"], run["network"], run["k"], run.get("norm"), run.get("head"))
        groups.setdefault(what, []).append(run)
    for what, some in groups.items():
        middle = min({run["n"] for run in some}, key=lambda n: abs(n - 200))
        tried = [run for run in some if run["n"] == middle and run["seed"] == 0]
        used = {run["rate"] for run in some if run["n"] != middle or run["seed"]}
        assert len(tried) >= 4 or not used, what
        if used:
            assert used == {min(tried, key=lambda run: run["validation_loss"])["rate"]}, what


def gain_and_error(first, second):
    """Difference and its standard error in points of two {seed: run}, paired by seed and by test image."""
    pairs = [right_answers(first[s]) - right_answers(second[s]).astype(float) for s in set(first) & set(second)]
    spread = np.std([pair.mean() for pair in pairs]) / np.sqrt(len(pairs))
    return 100 * np.mean(pairs), 100 * np.hypot(spread, np.mean(pairs, axis=0).std() / np.sqrt(len(pairs[0])))


def test_conclusions_on_the_page_are_the_records(runs, notebook):
    """Every sentence against the probe, and every interval below it, computed again from the record in another way."""
    names = {shown: name for name, shown in notebook.NAMES.items()}
    record, claimed, lines = notebook.Record(runs), [], {}
    for cell in nbformat.read(PAGE, as_version=4).cells:
        for line in "".join(o.get("text", "") for o in cell.get("outputs", [])).splitlines():
            way, case = re.match(r"Against the probe, on \w+ data, '(.+)' is (.+)\.$", line), re.match(CASE, line)
            if way:
                claimed.append((way[1], way[2]))
                lines[claimed[-1]] = []
            elif case and claimed:
                lines[claimed[-1]].append((names[case[1].strip()], int(case[2].replace(",", "")), *case.groups()[2:]))
    for (way, sentence), cases in lines.items():
        for data_set, n, network, *printed, verdict in cases:
            way = f"scratch, {network}" if network else way
            gain, error = gain_and_error(record.find(data_set, way, n), record.find(data_set, "probe", n))
            difference, low, high = map(float, printed)
            assert difference == pytest.approx(gain, abs=0.06) and low <= gain <= high
            assert verdict == ("better" if low > 0 else "worse" if high < 0 else "not told apart"), (way, data_set, n)
            assert abs(gain) <= 2.6 * error or verdict == ("better" if gain > 0 else "worse"), (way, data_set, n)
        counts = Counter(verdict for *_, verdict in cases)
        words = [f"{w} in {counts[w]}" for w in ("better", "worse", "not told apart") if counts[w]]
        assert sentence == f"{', '.join(words)} of {len(cases)} cases"
    assert sum(map(len, lines.values())) > 10
