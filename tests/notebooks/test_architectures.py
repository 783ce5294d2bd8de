"""What notebook 01 counts, builds and trains with: its own functions, against brute force, papers and Keras."""

import math

import keras
import numpy as np
import pytest
from keras import layers

from lesson import load

# Output channels of every module: C. Szegedy et al., 2014, table 1.
OUTPUTS = {"3a": 256, "3b": 480, "4a": 512, "4b": 512, "4c": 512, "4d": 528, "4e": 832, "5a": 832, "5b": 1024}


@pytest.fixture(scope="module")
def lesson():
    return load("01")


def built(*stack, size=12, channels=3):
    return keras.Sequential([keras.Input((size, size, channels)), *stack])


# ---- the three budgets --------------------------------------------------------------------------


@pytest.mark.parametrize(("layer", "work", "activations"), [
    (layers.Conv2D(4, 3, use_bias=False), 100 * 9 * 6 * 4, 100 * 4),  # 10 x 10 places are left
    (layers.Conv2D(8, 3, 2, padding="same", groups=2), 36 * 9 * 3 * 8, 36 * 8),
    (layers.DepthwiseConv2D(3, 2, padding="same", depth_multiplier=2), 36 * 9 * 12, 36 * 12),
    (layers.SeparableConv2D(8, 3, padding="same"), 144 * (9 * 6 + 6 * 8), 144 * 8),
    (layers.Dense(8), 144 * 6 * 8, 144 * 8),  # on a map, a dense layer works at every position
    (layers.MaxPooling2D(2), 0, 36 * 6),
    (layers.BatchNormalization(), 0, 0),
])  # fmt: skip
def test_every_kind_of_layer(lesson, layer, work, activations):
    assert lesson.totals(built(layer, channels=6)) == (layer.count_params(), activations, work)


def test_vgg16_has_15_million_activations(lesson):
    """Worked out here from the article's table: maps of 224, 112, 56, 28 and 14 pixels, and the pooled ones."""
    convolutions = [(2, 224, 64), (2, 112, 128), (3, 56, 256), (3, 28, 512), (3, 14, 512)]
    maps = sum(n * side**2 * c for n, side, c in convolutions)
    pooled = sum(side**2 * c for side, c in [(112, 64), (56, 128), (28, 256), (14, 512), (7, 512)])
    parameters, activations, work = lesson.totals(lesson.blueprint(lesson.vgg16))
    assert activations == maps + pooled + 4096 + 4096 + 1000 and round(activations / 1e6, 1) == 15.1
    assert (parameters, work) == (138_357_544, 15_470_264_320)


def test_a_blueprint_has_no_weights_and_leaves_keras_usable(lesson):
    assert lesson.blueprint(lesson.vgg16).layers[1].kernel._value is None
    with keras.StatelessScope():
        pass  # as it leaves such a scope, Keras draws whatever weights it knows to be missing
    assert np.any(built(layers.Conv2D(2, 3)).get_weights()[0]), "networks built afterwards have weights again"


@pytest.mark.parametrize(("name", "depth"), [("VGG16", 16), ("ResNet50", 50), ("MobileNet", 28), ("Xception", 71)])
def test_depth(lesson, name, depth):
    """Xception's paper counts 36 convolutions, 34 of them separable: 36 + 34, and the classifier."""
    assert lesson.depth(lesson.blueprint(getattr(keras.applications, name), weights=None)) == depth


# ---- networks -----------------------------------------------------------------------------------


def test_googlenet_is_that_of_its_table(lesson):
    model = lesson.blueprint(lesson.googlenet)
    for name, channels in OUTPUTS.items():
        side = {"3": 28, "4": 14, "5": 7}[name[0]]
        assert model.get_layer(f"inception_{name}").output.shape[1:] == (side, side, channels)
    assert model.count_params() == 6_998_552 and lesson.depth(model) == 22


def test_plain_and_residual_differ_in_nothing_but_the_shortcut(lesson):
    plain, residual = (lesson.digit_network(20, shortcut) for shortcut in (False, True))
    assert [w.shape for w in plain.weights] == [w.shape for w in residual.weights]
    assert sum(isinstance(layer, layers.Add) for layer in residual.layers) == 9 and lesson.depth(residual) == 20
    assert not any(isinstance(layer, layers.Add) for layer in plain.layers) and lesson.depth(plain) == 20
    bare = lesson.digit_network(20, False, batchnorm=False)
    assert not any(isinstance(layer, layers.BatchNormalization) for layer in bare.layers)


# ---- measuring and training ---------------------------------------------------------------------


def test_a_read_out_finds_what_is_there_and_nothing_else(lesson):
    """From maps that only reorder the digit everything can be read; from maps of noise nothing."""
    digits = lesson.data.balanced_subset(lesson.data.mnist(size=14).train, 60, seed=0)
    inputs = keras.Input((14, 14, 3))
    kept = keras.layers.ReLU(name="end_1")(keras.ops.roll(inputs, 5, axis=2))
    lost = keras.layers.GaussianNoise(1.0, name="end_2")(0.0 * kept)
    scores = lesson.readout(keras.Model(inputs, lost), digits, [1, 2])
    assert scores[0] > 0.75 and scores[1] < 0.05


def test_a_run_depends_on_its_seed_alone(lesson):
    splits = lesson.data.mnist(size=14)
    digits = lesson.data.balanced_subset(splits.train, 10, seed=0)
    model = lesson.digit_network(4, True)
    lesson.prepare(model, "Adam", 0.002, 4)
    results = []
    for seed in (1, 2, 1):
        lesson.start_again(model, lambda: lesson.digit_network(4, True), seed)
        results.append(lesson.train(model, digits, splits.validation, 2))
    assert results[0] == results[2] != results[1] and len(results[0]["losses"]) == 2


def test_the_interval_is_students(lesson):
    mean, half = lesson.interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert mean == 3 and half == pytest.approx(2.776 * math.sqrt(2.5 / 5), abs=1e-3)
