"""What transfer learning rests on: what is frozen stays, what is not changes, and VGG16 is VGG16."""

import keras
import numpy as np
import pytest
from keras import layers

from helpers import data, models, weights

COUNTS = {"output layer": (122_910, 1_735_488), "later blocks": (1_598_238, 260_160), "everything": (1_858_398, 0)}


@pytest.fixture(scope="module")
def batch():
    tiles = data.photo_tiles(32).train
    return tiles.images[:16], tiles.labels[:16]


def transfer_model(strategy):
    """VGG16 cut after block 3 with 30 classes, compiled with the layers of `strategy` trainable."""
    base = models.vgg16("block3_pool", 32)
    for layer in base.layers:
        later = not layer.name.startswith(("block1", "block2"))
        layer.trainable = strategy == "everything" or (strategy == "later blocks" and later)
    model = keras.Model(base.input, models.classifier_head(base.output_shape[1:], 30)(base.output))
    model.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy", jit_compile=False)
    return model


@pytest.mark.parametrize("strategy", COUNTS)
def test_frozen_weights_stay_and_the_others_change(strategy, batch):
    model = transfer_model(strategy)
    assert models.parameter_counts(model)[1:] == COUNTS[strategy]
    parts = [layer for layer in model.layers if layer.weights]
    before = [layer.get_weights() for layer in parts]
    model.fit(*batch, verbose=0)
    for layer, old in zip(parts, before, strict=True):
        changed = any(not np.array_equal(a, b) for a, b in zip(old, layer.get_weights(), strict=True))
        frozen = {"output layer": layer.name != "head", "everything": False}.get(
            strategy, layer.name.startswith(("block1", "block2"))
        )
        assert changed != frozen, layer.name


def test_frozen_batchnorm_keeps_its_statistics(batch):
    for frozen in (True, False):
        model = keras.Sequential([keras.Input((32, 32, 3)), layers.Conv2D(4, 3), layers.BatchNormalization()])
        model.layers[1].trainable = not frozen
        model.add(layers.GlobalAveragePooling2D())
        model.add(layers.Dense(30, activation="softmax"))
        model.compile("sgd", "sparse_categorical_crossentropy")
        before = model.layers[1].get_weights()[-2:]
        model.fit(*batch, verbose=0)
        same = all(np.array_equal(a, b) for a, b in zip(before, model.layers[1].get_weights()[-2:], strict=True))
        assert same == frozen


def test_vgg16_equals_keras_layer_by_layer(batch):
    """Ours takes raw pixels, Keras's what its preprocess_input makes of them: every layer must agree."""
    theirs = keras.applications.VGG16(weights=None, include_top=False, input_shape=(32, 32, 3))
    for name, arrays in weights.vgg16_base().items():
        theirs.get_layer(name).set_weights(arrays)
    ours = models.vgg16("block5_pool", 32)
    names = [layer.name for layer in theirs.layers if layer.name.startswith("block")]
    assert names == [layer.name for layer in ours.layers if layer.name.startswith("block")] and len(names) == 18
    prepared = keras.applications.vgg16.preprocess_input(batch[0][:4].astype(np.float32))
    outputs = [
        keras.Model(model.input, [model.get_layer(name).output for name in names]).predict(images, verbose=0)
        for model, images in ((ours, batch[0][:4]), (theirs, prepared))
    ]
    for name, a, b in zip(names, *outputs, strict=True):
        assert np.allclose(a, b, rtol=1e-4, atol=1e-3 * np.abs(b).max()), name
