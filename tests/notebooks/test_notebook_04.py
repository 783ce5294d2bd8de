"""Notebook 04: what it claims about freezing, caching and old code is true, and its results are what it says.

The claims are tested on the notebook's own cells and on the real network; the results are read from its
committed outputs, which the comparison with a fresh run keeps true.
"""

import importlib
import json
import re
import warnings
from pathlib import Path

from helpers import models

# isort: split
import keras
import nbformat
import numpy as np
import pytest

from helpers.data import mnist

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
NOTEBOOK = nbformat.read(NOTEBOOKS / "04_vgg16_mnist.ipynb", as_version=4)
SOLUTIONS = nbformat.read(NOTEBOOKS / "solutions" / "04_vgg16_mnist_solutions.ipynb", as_version=4)


def cell(notebook, text: str):
    """The one code cell whose source contains `text`."""
    (found,) = [c for c in notebook.cells if c.cell_type == "code" and text in c.source]
    return found


def printed(notebook, text: str) -> str:
    """What the code cell with `text` printed."""
    return "".join(o.text for o in cell(notebook, text).outputs if o.output_type == "stream")


def percentages(text: str) -> list[float]:
    return [float(p) for p in re.findall(r"(\d+\.\d)%", text)]


# ---- freezing -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def article():
    """The article's model, frozen by the notebook's own cell."""
    keras.utils.set_random_seed(0)
    names = {"article_vgg16": models.article_vgg16}
    exec(cell(NOTEBOOK, "article.summary()").source.replace("article.summary()", ""), names)
    return names["article"]


@pytest.fixture(scope="module")
def digits():
    train = mnist(48).train
    return train.images[:96], train.labels[:96]


@pytest.fixture
def fresh(article):
    """The article's model with its first weights, and the same dropout to come, before each test."""
    if not hasattr(article, "first_weights"):
        article.first_weights = article.get_weights()
        article.first_seed = article.get_layer("dropout").seed_generator.state.numpy()

    def restore():
        article.set_weights(article.first_weights)
        article.get_layer("dropout").seed_generator.state.assign(article.first_seed)
        return article

    return restore


def test_the_counts_of_the_article(article):
    assert models.parameter_counts(article) == (33_638_218, 18_923_530, 14_714_688)
    trainable = {layer.name for layer in article.layers if layer.trainable_weights}
    assert trainable == {"fc1", "fc2", "prediction"}


def test_the_summary_shows_the_counts():
    shown = "".join(o.get("data", {}).get("text/plain", "") for o in cell(NOTEBOOK, "article.summary()").outputs)
    shown = re.sub(r"\x1b\[[\d;]*m", "", shown)
    for line in ("Total params: 33,638,218", "Trainable params: 18,923,530", "Non-trainable params: 14,714,688"):
        assert line in shown


def train(model, inputs, labels, batches=3):
    """Steps of the article's recipe on the same batches, in the same order."""
    model.compile(optimizer=keras.optimizers.SGD(0.05), loss="sparse_categorical_crossentropy")
    for start in range(0, 32 * batches, 32):
        model.train_on_batch(inputs[start : start + 32], labels[start : start + 32])


def test_training_changes_the_head_and_nothing_else(fresh, digits):
    model = fresh()
    train(model, *digits)
    pairs = zip(model.weights, model.first_weights, strict=True)
    changed = {weight.path.split("/")[0] for weight, first in pairs if not np.array_equal(weight.numpy(), first)}
    assert changed == {"fc1", "fc2", "prediction"}


def test_the_head_on_features_is_the_article_on_pictures(fresh, digits):
    """Same start, same batches, same dropout: the same predictions after training, one way or the other."""
    pictures, labels = digits
    model = fresh()
    train(model, pictures, labels)
    expected = model.predict(pictures, verbose=0)
    assert np.abs(expected - fresh().predict(pictures, verbose=0)).max() > 0.01  # the training did something
    model = fresh()
    base = keras.Model(model.input, model.get_layer("block5_pool").output)
    head = keras.Sequential([keras.Input((1, 1, 512)), *model.layers[-5:]])
    train(head, base.predict(pictures, verbose=0), labels)
    np.testing.assert_allclose(model.predict(pictures, verbose=0), expected, atol=1e-4)


# ---- old and new code -----------------------------------------------------------------------------


def test_the_schedule_is_the_old_decay():
    names = {"keras": keras, "np": np, "LEARNING_RATE": 0.05}
    exec(cell(NOTEBOOK, "InverseTimeDecay").source, names)
    for step in (0, 1, 10, 9_380, 100_000):
        assert float(names["schedule"](step)) == pytest.approx(0.05 / (1 + 1e-5 * step), rel=1e-5)


def test_what_the_table_says_about_todays_keras():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("keras.layers.convolutional")
    with pytest.raises(ValueError, match="lr"):
        keras.optimizers.SGD(lr=0.05)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimizer = keras.optimizers.SGD(learning_rate=0.05, decay=1e-5)
    assert "ignored" in str(caught[0].message) and float(optimizer.learning_rate) == pytest.approx(0.05)


def test_every_line_of_the_old_code_fails_in_the_notebook():
    said = printed(NOTEBOOK, "def report")
    assert cell(NOTEBOOK, "def report").source.count("\nreport(") == said.count("\n    ") == 5


# ---- results --------------------------------------------------------------------------------------


def test_the_better_model_beats_the_article():
    said = printed(NOTEBOOK, "~article_right")
    (article, *_), (block3, *_) = (percentages(line) for line in said.splitlines()[:2])
    assert block3 >= 98.5 and block3 - article > 5


def test_block_3_is_the_best_cut_and_block_5_no_good():
    for line in printed(NOTEBOOK, 'for scaling in ("unit", "imagenet")').splitlines():
        if line.startswith(("unit", "imagenet")):
            values = percentages(line)
            assert len(values) == 5 and max(values) == values[2] and values[2] - values[4] > 5


def test_receptive_fields():
    said = printed(NOTEBOOK, "field += 2 * step")
    assert re.findall(r"sees +(\d+)", said) == ["6", "16", "44", "100", "212"]
    assert re.findall(r"says (.+) numbers", said)[-1] == "1 × 1 × 512"


def test_no_test_digit_is_used_for_training():
    """Test digits and labels occur only where something is predicted or evaluated."""
    for c in NOTEBOOK.cells:
        if c.cell_type == "code" and re.search(r"\.(fit|train_on_batch|adapt)\(", c.source):
            assert not re.search(r"\btest\b|test_48|features\[2\]|better\[2\]", c.source), c.source


def test_solution_of_the_order_of_freezing():
    said = printed(SOLUTIONS, "freeze compile fit unfreeze")
    assert [line.split()[-1] for line in said.splitlines()] == ["stays", "stays", "learns", "stays", "learns"]


def test_solution_of_pretraining():
    pixels, random, pretrained = percentages(printed(SOLUTIONS, "random VGG16"))
    assert pixels + 5 < random < pretrained


# ---- recorded runs --------------------------------------------------------------------------------

RECORDED = NOTEBOOKS / "recorded"


def recorded(name):
    return json.loads((RECORDED / name).read_text(encoding="utf-8"))["runs"]


@pytest.fixture(scope="module")
def full():
    runs = {}
    for run in recorded("04_full_mnist.json"):
        if "superseded" not in run:
            runs.setdefault(run["run"], []).append(run)
    return runs


def test_recorded_tests_agree_with_themselves(full):
    """Accuracy, confusion, calibration and the counted mistakes say the same of 10,000 official test digits."""
    tested = [run for runs in full.values() for run in runs if "test_accuracy" in run]
    assert len(tested) >= 5
    for run in tested:
        confusion = np.array(run["confusion"])
        assert confusion.sum() == sum(count for count, *_ in run["calibration"]) == 10_000
        assert run["test_accuracy"] == np.trace(confusion) / 10_000
        assert run["train"] == 60_000 and all(len(curve) == run["epochs"] for curve in run["curves"].values())
        for mistake in run.get("mistakes", ()):
            assert mistake["p_right"] <= mistake["p"] and confusion[mistake["is"], mistake["said"]] > 0


def test_recorded_results_reach_what_the_series_promises(full):
    article = full["article's recipe"]
    frozen = [run for run in full["frozen, block 3"] if "test_accuracy" in run]
    assert {run["seed"] for run in frozen} == {run["seed"] for run in article} == {0, 1, 2}
    assert all(run["parameters"] == 33_638_218 and run["trainable"] == 18_923_530 for run in article)
    assert min(run["test_accuracy"] for run in frozen) >= 0.995
    assert max(run["test_accuracy"] for run in article) < min(run["test_accuracy"] for run in frozen)
    assert 0.953 <= np.mean([run["test_accuracy"] for run in article]) <= 0.972
    assert min(run["test_accuracy"] for run in full["fine-tuned, block 3"]) >= 0.9965


def test_choices_were_made_on_validation_digits(full):
    trials = full["choice of learning rate"]
    best = min(trials, key=lambda run: run["validation_loss"])
    assert len(trials) == 3 and all("test_accuracy" not in run for run in trials)
    assert {run["rate"] for run in full["fine-tuned, block 3"]} == {best["rate"]}


@pytest.fixture(scope="module")
def one_change(recorded_program):
    return recorded_program("04_one_change")


def test_one_change_is_one_change(one_change):
    """Every line of the table differs from the recipe in one setting; two name both that they change, one all."""
    for change, values in one_change.CHANGES.items():
        assert set(values) <= set(one_change.RECIPE) and all(one_change.RECIPE[k] != v for k, v in values.items())
        assert len(values) <= 1 or "," in change
    assert one_change.RECIPE["rate"] == 0.05 and one_change.RECIPE["hidden"] == (4096, 4096)


def test_recorded_changes_are_whole(one_change):
    runs = recorded("04_one_change.json")
    seen = {(run["change"], run["seed"]) for run in runs if run["experiment"] == "one change"}
    assert seen >= {(change, 0) for change in one_change.CHANGES}
    assert seen >= {("nothing: the article's recipe", seed) for seed in (0, 1, 2)}, "how much of it is chance"
    ways = {(run["way"], run["seed"]) for run in runs if run["experiment"] == "augmentation"}
    assert len(ways) == 9
    assert {run["scale"] for run in runs if run["experiment"] == "scale of the input"} == set(one_change.SCALES)


def test_a_head_does_not_depend_on_when_its_features_were_computed(recorded_program, monkeypatch, tmp_path):
    """Computing features builds a network, which draws random numbers; a run that finds them must end the same."""
    program = recorded_program("04_full_mnist")
    monkeypatch.setenv("HELPERS_CACHE", str(tmp_path))

    class SomeDigits:
        labels, choosing, there = np.arange(150) % 10, 120, False

        def block3(self, size):
            if not self.there:
                keras.layers.Dense(3).build((None, 2))  # as the network that computes them
                self.there = True
            features = np.random.default_rng(0).normal(size=(150, 4, 4, 2)).astype(np.float32)
            return features, features[:20]

    digests = []
    for there in (False, True):
        digits = SomeDigits()
        digits.there = there
        head, curves = program.trained_head(digits, 32, 0, 150, 0)
        assert len(curves["loss"]) == 12 and curves["loss"][-1] < curves["loss"][0]
        digests.append(program.sha256_of_weights(head))
        program.forget("frozen_32_0_150_0")
    assert digests[0] == digests[1]


def test_what_is_recorded_is_not_run_again(recorded_program, monkeypatch, tmp_path):
    """`make full` on the committed record reads no digit and writes nothing, whatever precision the reader's is."""
    program = recorded_program("04_full_mnist")

    class Untouched:
        choosing, labels = 55_000, range(60_000)

    monkeypatch.setattr(program, "FILE", tmp_path / "04_full_mnist.json")
    monkeypatch.setattr(program, "Digits", lambda file: Untouched())
    monkeypatch.setattr(program.tf.config.experimental, "enable_op_determinism", lambda: None)
    monkeypatch.setenv("HELPERS_CACHE", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["04_full_mnist.py"])
    content = (RECORDED / "04_full_mnist.json").read_bytes()
    program.FILE.write_bytes(content)
    program.main()
    assert program.FILE.read_bytes() == content
    lines = [line for line in content.splitlines(keepends=True) if b'"fine-tuned' not in line or b"superseded" in line]
    program.FILE.write_bytes(b"".join(lines))
    with pytest.raises(AttributeError, match="block3"):  # the run that is missing would be made
        program.main()
