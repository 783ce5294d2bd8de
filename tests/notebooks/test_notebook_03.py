"""Notebook 03: its four strategies train what they say, and its recorded runs are whole.

The strategies are taken from the notebook's own cells. Each check is then repeated on the same cells
with the one line broken on which it depends, and must fail.
"""

import json
from pathlib import Path

import keras
import nbformat
import numpy as np
import pytest
from keras import layers
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

import helpers  # noqa: F401
from helpers import data, models
from helpers.features import extract

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
CUT, SIZE, SEED = "block3_pool", 32, 0


def cells():
    notebook = nbformat.read(NOTEBOOKS / "03_transfer_scenarios.ipynb", as_version=4)
    names = ("linear_probe", "output_layer", "replace_the_output_layer", "retrain_later_blocks")
    names += ("retrain_everything", "train_from_scratch")
    return "\n\n".join(
        cell.source
        for cell in notebook.cells
        if cell.cell_type == "code" and any(f"def {name}(" in cell.source for name in names)
    )


@pytest.fixture(scope="module")
def world():
    """What the notebook has defined before its strategies, with 40 digits."""
    digits = data.mnist(SIZE)
    images = {"MNIST": digits._replace(train=data.balanced_subset(digits.train, 4))}
    base = models.vgg16(CUT, SIZE)

    def at(name, part, cut):
        features = extract(models.vgg16(cut, SIZE), getattr(images[name], part).images, cache=False)
        return features.reshape(len(features), -1)

    return {
        **{"keras": keras, "layers": layers, "np": np, "models": models, "images": images, "base": base, "at": at},
        **{"CUT": CUT, "SIZE": SIZE, "FROZEN_BLOCKS": 2, "first_blocks": ("block1", "block2")},
        **{"LogisticRegression": LogisticRegression, "threadpool_limits": threadpool_limits},
    }


def trained(world, strategy, rate, epochs, breaking=None):
    """The network that a strategy returns, and which of its layers differ from the teacher's."""
    source = cells()
    if breaking:
        assert breaking[0] in source, f"the notebook has no line {breaking[0]!r} any more"
        source = source.replace(*breaking)
    space = dict(world)
    exec(source, space)
    keras.utils.set_random_seed(SEED)
    model = space[strategy]("MNIST", np.arange(40), rate, epochs)
    teacher = {layer.name: layer.get_weights() for layer in world["base"].layers if layer.weights}
    changed = {
        layer.name: any((a != b).any() for a, b in zip(layer.get_weights(), teacher[layer.name], strict=True))
        for layer in model.layers
        if layer.name in teacher
    }
    return model, changed


def only_the_output_layer(world, breaking=None):
    model, changed = trained(world, "replace_the_output_layer", 0.0, 0, breaking)
    assert not any(changed.values()), "the teacher's weights must be what they were"
    assert models.parameter_counts(model)[1:] == (40_970, 1_735_488)
    said = model.predict(world["images"]["MNIST"].train.images, verbose=0).argmax(1)
    assert (said == world["images"]["MNIST"].train.labels).mean() > 0.9, "the probe must fit its own digits"


def only_later_blocks(world, breaking=None):
    model, changed = trained(world, "retrain_later_blocks", 1e-3, 1, breaking)
    assert {name for name, moved in changed.items() if moved} == {f"block3_conv{i}" for i in (1, 2, 3)}
    assert models.parameter_counts(model)[1:] == (1_516_298, 260_160)


def everything(world, breaking=None):
    model, changed = trained(world, "retrain_everything", 1e-3, 1, breaking)
    assert len(changed) == 7 and all(changed.values())
    assert models.parameter_counts(model)[1:] == (1_776_458, 0)


def from_scratch(world, breaking=None):
    model, changed = trained(world, "train_from_scratch", 1e-3, 15, breaking)
    assert not changed, "nothing of the teacher may be in it"
    assert models.parameter_counts(model)[2] == 0
    part = world["images"]["MNIST"].train
    assert (model.predict(part.images, verbose=0).argmax(1) == part.labels).mean() > 0.5, "it must have learned"


CHECKS = [only_the_output_layer, only_later_blocks, everything, from_scratch]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_strategy(world, check):
    check(world)


@pytest.mark.parametrize(
    ("check", "line", "broken"),
    [
        (only_the_output_layer, "base.trainable = False", "base.trainable = True"),
        (only_the_output_layer, "softmax.set_weights([probe.coef_.T, probe.intercept_])", "pass"),
        (only_later_blocks, "layer.trainable = not layer.name.startswith(first_blocks)", "layer.trainable = True"),
        (only_later_blocks, "layer.trainable = not layer.name.startswith(first_blocks)", "layer.trainable = False"),
        (everything, "model.compile(keras.optimizers.Adam(rate)", "base.trainable = False; model.compile('adam'"),
        (from_scratch, "model.fit(", "len("),
    ],
)
def test_strategy_with_its_line_broken(world, check, line, broken):
    if broken == "len(":
        broken = "(lambda *_, **__: None)("
    with pytest.raises(AssertionError):
        check(world, (line, broken))


@pytest.fixture(scope="module")
def runs():
    return json.loads((NOTEBOOKS / "recorded" / "03_matrix.json").read_text())["runs"]


def test_every_recorded_run_is_whole(runs):
    for run in (run for run in runs if run["experiment"] != "advice"):
        assert {"experiment", "data", "strategy", "rate", "seed", "n", "validation", "test", "seconds"} <= set(run), run
        assert 0 <= run["test"] <= 1 and 0 <= run["validation"] <= 1 and run["seconds"] > 0


def test_recorded_matrix_has_every_field_and_strategy(runs):
    fields = {(r["data"], r["size"], r["strategy"]) for r in runs if r["experiment"] == "matrix"}
    assert len({strategy for *_, strategy in fields}) == 4
    assert {name for name, *_ in fields} == {"photo tiles", "CIFAR-10", "MNIST"}
    assert len(fields) == 24, "4 strategies, 2 sizes, 3 data sets"
    for field in fields:
        seeds = {
            r["seed"] for r in runs if r["experiment"] == "matrix" and (r["data"], r["size"], r["strategy"]) == field
        }
        assert seeds == {0, 1, 2}, field


def test_later_seeds_keep_the_rate_that_the_first_one_chose_on_validation_images(runs):
    matrix = [r for r in runs if r["experiment"] == "matrix"]
    for run in matrix:
        settings = {key: run[key] for key in ("data", "size", "strategy")}
        tried = [r for r in matrix if r["seed"] == 0 and settings.items() <= r.items()]
        if run["seed"] > 0:
            assert run["rate"] == max(tried, key=lambda r: r["validation"])["rate"]


def test_recorded_advice_is_right_on_all_three_data_sets(runs):
    said = {run["data"]: (tuple(run["scenario"]), run["cut"]) for run in runs if run["experiment"] == "advice"}
    assert {name: scenario for name, (scenario, _) in said.items()} == {
        "photo tiles": ("small", "similar"),
        "CIFAR-10": ("large", "similar"),
        "MNIST": ("large", "dissimilar"),
    }


def test_rates_were_chosen_among_several(runs):
    first = [r for r in runs if r["experiment"] == "matrix" and r["seed"] == 0]
    for strategy in {r["strategy"] for r in first} - {"replace the output layer"}:
        assert len({r["rate"] for r in first if r["strategy"] == strategy}) > 1
