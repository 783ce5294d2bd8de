"""Notebook 04: what it claims about freezing, caching, augmentation and old code is true, and its results are what
it says. The claims are tested on the lesson's own functions and on the real network; the results are read from its
committed outputs, which the comparison with a fresh run keeps true.
"""

import importlib
import re

import keras
import nbformat
import numpy as np
import pytest

import lesson
from helpers.data import mnist
from helpers.models import parameter_counts
from records import FOLDER, Records

NOTEBOOK = nbformat.read(FOLDER.parent / "04_vgg16_mnist.ipynb", as_version=4)


def printed(text: str) -> str:
    """What the one code cell whose source contains `text` printed."""
    (found,) = [c for c in NOTEBOOK.cells if c.cell_type == "code" and text in c.source]
    return "".join(o.text for o in found.outputs if o.output_type == "stream")


def percentages(text: str) -> list[float]:
    return [float(p) for p in re.findall(r"(\d+\.\d)%", text)]


@pytest.fixture(scope="module")
def page():
    return lesson.load("04")


# ---- freezing -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fresh(page):
    """The article's model, each time with the same first weights and the same dropout to come."""
    keras.utils.set_random_seed(0)
    article = page.article_model()
    weights, seed = article.get_weights(), article.get_layer("dropout").seed_generator.state.numpy()

    def restore():
        article.set_weights(weights)
        article.get_layer("dropout").seed_generator.state.assign(seed)
        return article

    return restore


@pytest.fixture(scope="module")
def digits(page):
    train = mnist(28).train
    return page.enlarged(train.images[:64]), train.labels[:64]


def train(page, model, inputs, labels):
    """Two steps of the article's recipe, always on the same batches; the names of the layers that changed."""
    before = {weight.path: weight.numpy() for weight in model.weights}
    model.compile(keras.optimizers.SGD(page.article_schedule(0.05)), "sparse_categorical_crossentropy")
    for start in (0, 32):
        model.train_on_batch(inputs[start : start + 32], labels[start : start + 32])
    changed = [w.path for w in model.weights if not np.array_equal(w.numpy(), before[w.path])]
    return {path.split("/")[-2] for path in changed}


def test_the_counts_of_the_article(fresh):
    assert parameter_counts(fresh()) == (33_638_218, 18_923_530, 14_714_688)


@pytest.mark.slow
def test_training_changes_the_head_and_nothing_else(page, fresh, digits):
    assert train(page, fresh(), *digits) == {"fc1", "fc2", "prediction"}
    model = fresh()
    model.layers[0].trainable = True
    assert len(train(page, model, *digits)) == 13 + 3, "without freezing, every layer moves"
    model.layers[0].trainable = False


@pytest.mark.slow
def test_the_head_on_features_is_the_article_on_images(page, fresh, digits):
    """Same start, same batches, same dropout: the same predictions after training, one way or the other."""
    images, labels = digits
    model = fresh()
    train(page, model, images, labels)
    expected = model.predict(images, verbose=0)
    model = fresh()
    assert np.abs(expected - model.predict(images, verbose=0)).max() > 0.01, "the training did something"
    train(page, page.head_of(model), model.layers[0].predict(images, verbose=0), labels)
    np.testing.assert_allclose(model.predict(images, verbose=0), expected, atol=1e-4)


# ---- the lesson's functions -----------------------------------------------------------------------


def test_the_schedule_is_the_old_decay(page):
    for step in (0, 1, 9_380, 100_000):
        assert float(page.article_schedule(0.05)(step)) == pytest.approx(0.05 / (1 + 1e-5 * step), rel=1e-5)


def test_standardised_head(page):
    """Mean 0 and standard deviation 1 reach the classifier; a feature that never varies does no harm."""
    features = np.random.default_rng(0).normal((5, -300, 0), (2, 100, 0), (200, 3)).astype(np.float32)
    head = page.standardised_head(features.reshape(200, 1, 1, 3), hidden=(6,))
    inside = keras.Model(head.layers[0].input, head.layers[1].output).predict(features.reshape(200, 1, 1, 3), verbose=0)
    np.testing.assert_allclose(inside.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(inside.std(axis=0), (1, 1, 0), atol=1e-4)
    assert parameter_counts(head)[1] == 3 * 6 + 6 + 6 * 10 + 10


def places(page, x=16, y=16, **strength) -> np.ndarray:
    """Where 300 moved images of one white dot have their centre of brightness, from the middle."""
    images = np.zeros((300, 33, 33, 3), np.uint8)
    images[:, y, x] = 255
    grey = page.moved(images, np.random.default_rng(0), **strength)[..., 0].astype(float)
    axis = np.arange(33) - 16
    return np.stack([(grey * axis).sum((1, 2)), (grey * axis[:, None]).sum((1, 2))], 1) / grey.sum((1, 2))[:, None]


def test_moved(page):
    """Shifts, turns and stretches reach their limits and do not pass them; without strength nothing moves."""
    assert np.abs(places(page, degrees=0, pixels=0)).max() == 0
    shifts = places(page, degrees=0, pixels=3)
    assert 2.8 < np.abs(shifts).max() <= 3.05 and np.abs(shifts.mean(axis=0)).max() < 0.4
    turned = places(page, y=6, degrees=30, pixels=0)
    angles = np.rad2deg(np.arctan2(turned[:, 0], -turned[:, 1]))
    assert -30.5 < angles.min() < -28 and 28 < angles.max() < 30.5
    assert np.abs(np.hypot(*turned.T) - 10).max() < 0.2
    assert 9 < np.hypot(*places(page, y=6, degrees=0, pixels=0, stretch=0.1).T).min() < 9.3


# ---- results --------------------------------------------------------------------------------------


def test_results_of_the_page():
    (article, *_), (block3, *_) = (percentages(line) for line in printed("~article_right").splitlines()[:2])
    assert block3 >= 98.5 and block3 - article > 5
    for line in printed('for scaling in ("unit", "imagenet")').splitlines():
        values = percentages(line)
        assert len(values) == 5 and max(values) == values[2] and values[2] - values[4] > 5
    assert re.findall(r"sees +(\d+)", printed("field += 2 * step")) == ["6", "16", "44", "100", "212"]


def test_no_test_digit_is_used_for_training():
    """Test digits and labels occur only where something is predicted or evaluated."""
    for c in NOTEBOOK.cells:
        if c.cell_type == "code" and re.search(r"\.(fit|train_on_batch|adapt)\(", c.source):
            assert not re.search(r"\btest\b|test_48|features\[2\]|better\[2\]", c.source), c.source


def test_recorded_runs_agree_with_themselves():
    """Accuracy, confusion, calibration and curves say the same of 10,000 official test digits; choices saw none."""
    runs = Records(FOLDER / "04_full_mnist.json", "", "").find()
    tested = [run for run in runs if "test_accuracy" in run]
    for run in tested:
        confusion = np.array(run["confusion"])
        assert confusion.sum() == sum(count for count, *_ in run["calibration"]) == 10_000
        assert run["test_accuracy"] == np.trace(confusion) / 10_000 and run["train"] == 60_000
        assert all(len(curve) == run["epochs"] for curve in run["curves"].values())
    trials = [run for run in runs if run["run"] == "choice of learning rate"]
    (tuned,) = [run for run in tested if run["run"] == "fine-tuned, block 3"]
    assert len(trials) == 3 and min(trials, key=lambda run: run["validation_loss"])["rate"] == tuned["rate"]


def test_one_change_is_one_change():
    """Every line of the table differs from the recipe in one setting; two name both that they change, one all."""
    program = importlib.import_module("mnist_one_change")
    for change, values in program.CHANGES.items():
        assert set(values) <= set(program.RECIPE) and all(program.RECIPE[k] != v for k, v in values.items())
        assert len(values) <= 1 or "," in change


# ---- what it draws and compares -------------------------------------------------------------------


def test_every_cut_is_each_cut(page):
    """One pass gives what five networks would give, block 1 averaged over 2 x 2 places."""
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    network, widths = page.vgg16_every_cut(32, "imagenet")
    parts = np.split(network.predict(images, verbose=0), np.cumsum(widths)[:-1], axis=1)
    for cut, part in zip(page.CUTS, parts, strict=True):
        expected = page.vgg16(cut, 32).predict(images, verbose=0)
        if cut == "block1_pool":
            expected = expected.reshape(3, 8, 2, 8, 2, 64).mean((2, 4))
        np.testing.assert_allclose(part, expected.reshape(3, -1), rtol=1e-4, atol=1e-2)


def test_training_curves_show_errors_from_epoch_1(page):
    history = {"accuracy": [0.90, 0.95], "val_accuracy": [0.92, 0.99], "loss": [0.4, 0.2], "val_loss": [0.3, 0.2]}
    page.training_curves({"run": history}, others="test")
    error, loss = page.plt.gcf().axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in error.lines}
    assert lines["run, training"] == [[1, pytest.approx(10)], [2, pytest.approx(5)]]
    assert lines["run, test"] == [[1, pytest.approx(8)], [2, pytest.approx(1)]] and error.get_yscale() == "log"
    assert [list(line.get_ydata()) for line in loss.lines] == [history["loss"], history["val_loss"]]
    page.plt.close("all")
