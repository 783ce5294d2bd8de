"""What transfer learning rests on: what is frozen stays, what is not changes, and VGG16 is VGG16."""

import keras
import numpy as np
import pytest

from experiments import lesson
from helpers import data, models, weights


@pytest.fixture(scope="module")
def tiles():
    part = data.photo_tiles(64).train
    return part.images[:16], part.labels[:16]


@pytest.fixture(scope="module")
def base():
    return models.efficientnet_lite0(64, include_top=False)


@pytest.fixture(scope="module")
def notebook():
    return lesson.load("03")


def stage_of(base):
    """{layer: the stage that it is in, from 1}, from the names of the blocks and not from the lesson's list."""
    first = {0: 1, 1: 2, 3: 3, 5: 4, 8: 5, 11: 6, 15: 7}
    stages = {}
    for layer in base.layers:
        block = layer.name.split("_")[0].removeprefix("block")
        number = max((n for n in first if n <= int(block)), default=0) if block.isdigit() else None
        stages[layer.name] = 7 if layer.name.startswith("head") else first[number] if number is not None else 1
    return stages


@pytest.mark.parametrize("k", range(8))
def test_the_first_k_stages_and_every_batchnorm_are_frozen(notebook, k, base):
    notebook.freeze(base, k)
    stages = stage_of(base)
    for layer in base.layers:
        norm = isinstance(layer, keras.layers.BatchNormalization)
        assert layer.trainable == (stages[layer.name] > k and not norm), layer.name


@pytest.mark.slow
def test_frozen_stages_stay_bit_for_bit_and_later_ones_change(notebook, tiles):
    model = notebook.add_output_layer(models.efficientnet_lite0(64, include_top=False), 30)
    notebook.freeze(model, 5)
    upper = notebook.later_stages(model, 5)
    frozen = notebook.first_stages(model, 5)
    whole = model.predict(tiles[0], verbose=0)
    assert np.allclose(upper.predict(frozen.predict(tiles[0], verbose=0), verbose=0), whole, atol=1e-5)
    upper.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    before = {layer.name: layer.get_weights() for layer in model.layers if layer.weights}
    upper.fit(frozen.predict(tiles[0], verbose=0), tiles[1], verbose=0)
    stages = stage_of(model)
    for name, old in before.items():
        layer = model.get_layer(name)
        changed = any(not np.array_equal(a, b) for a, b in zip(old, layer.get_weights(), strict=True))
        norm = isinstance(layer, keras.layers.BatchNormalization)
        assert changed == (name == "output" or stages[name] > 5 and not norm), name
    shares = notebook.moved(model, before)
    assert shares[:5] == [0.0] * 5 and min(shares[5:]) > 0


def test_vgg16_equals_keras_layer_by_layer(tiles):
    """Ours takes raw pixels, Keras's what its preprocess_input makes of them: every layer must agree."""
    theirs = keras.applications.VGG16(weights=None, include_top=False, input_shape=(64, 64, 3))
    for name, arrays in weights.vgg16_base().items():
        theirs.get_layer(name).set_weights(arrays)
    ours = models.vgg16("block5_pool", 64)
    names = [layer.name for layer in theirs.layers if layer.name.startswith("block")]
    assert names == [layer.name for layer in ours.layers if layer.name.startswith("block")] and len(names) == 18
    prepared = keras.applications.vgg16.preprocess_input(tiles[0][:4].astype(np.float32))
    both = [keras.Model(m.input, [m.get_layer(name).output for name in names]) for m in (ours, theirs)]
    outputs = [m.predict(x, verbose=0) for m, x in zip(both, (tiles[0][:4], prepared), strict=True)]
    for name, a, b in zip(names, *outputs, strict=True):
        assert np.allclose(a, b, rtol=1e-4, atol=1e-3 * np.abs(b).max()), name
