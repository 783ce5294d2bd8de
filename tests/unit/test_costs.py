"""Costs are counted against brute force, against published numbers and against measurement."""

import helpers  # noqa: F401  must come before Keras

# isort: split

import keras
import numpy as np
import psutil
import pytest
from keras import layers

from helpers import costs


def built(*stack, size=12, channels=3):
    return keras.Sequential([keras.Input((size, size, channels)), *stack])


def multiplications_by_hand(layer, image):
    """Multiply-adds of a 'valid' convolution, counted one by one while it is computed; and its result."""
    kernel = layer.kernel.numpy()
    height, width, _, filters = kernel.shape
    if layer.groups > 1:
        raise ValueError("only plain convolutions")
    stride = layer.strides[0]
    side = (image.shape[0] - height) // stride + 1
    result, count = np.zeros((side, side, filters)), 0
    for row in range(side):
        for column in range(side):
            for number in range(filters):
                for i in range(height):
                    for j in range(width):
                        for channel in range(image.shape[2]):
                            pixel = image[row * stride + i, column * stride + j, channel]
                            result[row, column, number] += pixel * kernel[i, j, channel, number]
                            count += 1
    return count, result


@pytest.mark.parametrize("stride", [1, 2])
def test_multiply_adds_equal_brute_force(stride):
    layer = layers.Conv2D(4, 3, stride, use_bias=False)
    model = built(layer, size=7, channels=2)
    image = np.random.default_rng(0).normal(size=(7, 7, 2))
    count, result = multiplications_by_hand(layer, image)
    assert costs.multiply_adds(model) == count
    np.testing.assert_allclose(model(image[None])[0], result, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "kind", "expected"),
    [
        (layers.Conv2D(8, 5, padding="same"), "convolution", 144 * 25 * 6 * 8),
        (layers.Conv2D(8, 3, 2, padding="same", groups=2), "convolution", 36 * 9 * 3 * 8),
        (layers.Conv2D(8, 3, dilation_rate=2), "convolution", 64 * 9 * 6 * 8),
        (layers.DepthwiseConv2D(3, padding="same"), "depthwise", 144 * 9 * 6),
        (layers.DepthwiseConv2D(3, 2, padding="same", depth_multiplier=2), "depthwise", 36 * 9 * 12),
        (layers.SeparableConv2D(8, 3, padding="same"), "separable", 144 * (9 * 6 + 6 * 8)),
        (layers.Dense(8), "dense", 144 * 6 * 8),  # on a map, a dense layer works at every position
    ],
)
def test_every_kind_of_layer(layer, kind, expected):
    (cost,) = costs.layer_costs(built(layer, channels=6))
    assert (cost.name, cost.kind, cost.multiply_adds) == (layer.name, kind, expected)
    assert cost.parameters == layer.count_params()


def test_published_multiply_adds():
    """MobileNet: 569 million for the whole network and 1 to 0.25 of its width (A. Howard et al., 2017, table 6)."""
    for alpha, millions in {1.0: 569, 0.75: 325, 0.5: 149, 0.25: 41}.items():
        with costs.blueprint():
            assert round(costs.multiply_adds(keras.applications.MobileNet(alpha=alpha, weights=None)) / 1e6) == millions


def test_models_inside_models_are_counted():
    inner = built(layers.Conv2D(4, 3), size=12)
    outer = keras.Sequential([keras.Input((12, 12, 3)), inner, layers.Flatten(), layers.Dense(2)])
    assert costs.multiply_adds(outer) == costs.multiply_adds(inner) + 400 * 2


def test_what_is_not_known_is_refused():
    with pytest.raises(ValueError, match="multiply-adds of a Conv2DTranspose layer are not known"):
        costs.layer_costs(built(layers.Conv2DTranspose(2, 3)))
    with pytest.raises(ValueError, match="multiply-adds of a MultiHeadAttention layer are not known"):
        inputs = keras.Input((4, 6))
        costs.layer_costs(keras.Model(inputs, layers.MultiHeadAttention(1, 2)(inputs, inputs)))
    with pytest.raises(ValueError, match="output size .* is open"):
        costs.layer_costs(keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(2, 3)]))


def test_layers_without_a_kernel_cost_nothing():
    model = built(layers.Conv2D(4, 3), layers.BatchNormalization(), layers.LayerNormalization(), layers.MaxPooling2D(2))
    assert [cost.kind for cost in costs.layer_costs(model)] == ["convolution"]


# ---- blueprints ---------------------------------------------------------------------------------


def test_blueprint_draws_no_weights_and_leaves_keras_usable():
    """VGG19's weights would take 575 MB."""
    before = psutil.Process().memory_info().rss
    with costs.blueprint():
        giant = keras.applications.VGG19(weights=None)
        assert giant.count_params() == 143_667_240
    with keras.StatelessScope():
        pass  # as it leaves such a scope, Keras draws whatever weights it knows to be missing
    model = built(layers.Conv2D(2, 3))
    assert psutil.Process().memory_info().rss - before < 200e6
    assert np.any(model.get_weights()[0]), "networks built afterwards have weights again"


def test_blueprint_ends_after_an_error():
    with pytest.raises(ZeroDivisionError), costs.blueprint():
        raise ZeroDivisionError
    assert np.any(built(layers.Conv2D(2, 3)).get_weights()[0])


# ---- depth --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "depth"), [("VGG16", 16), ("ResNet50", 50), ("MobileNet", 28), ("Xception", 37)])
def test_depth_as_published(name, depth):
    """Xception's paper counts 36 convolutions; the classifier is the 37th layer."""
    with costs.blueprint():
        assert costs.depth(getattr(keras.applications, name)(weights=None)) == depth


def test_depth_is_the_longest_way():
    inputs = keras.Input((8, 8, 3))
    long = layers.Conv2D(3, 1)(layers.Conv2D(3, 1)(inputs))
    model = keras.Model(inputs, layers.Add()([long, layers.Conv2D(3, 1)(inputs)]))
    assert costs.depth(model) == 2


def test_a_way_that_is_not_plain_is_refused():
    inputs, shared = keras.Input((8, 8, 3)), layers.Conv2D(3, 1)
    with pytest.raises(ValueError, match="used more than once"):
        costs.depth(keras.Model(inputs, shared(shared(inputs))))
    with pytest.raises(ValueError, match="contains the model"):
        costs.receptive_fields(keras.Sequential([inputs, built(layers.Conv2D(3, 1), size=8), layers.ReLU()]))


# ---- receptive fields ---------------------------------------------------------------------------

STACKS = {
    "two 3x3": [layers.Conv2D(4, 3), layers.Conv2D(4, 3)],
    "pooling": [layers.Conv2D(4, 3, padding="same"), layers.MaxPooling2D(2), layers.Conv2D(4, 3, padding="same")],
    "strides": [layers.Conv2D(4, 7, 2), layers.AveragePooling2D(3, 2), layers.DepthwiseConv2D(3)],
    "dilated": [layers.Conv2D(4, 3, dilation_rate=2), layers.SeparableConv2D(4, 3), layers.BatchNormalization()],
    "overlapping pools": [layers.MaxPooling2D(3, 2), layers.ReLU(), layers.MaxPooling2D(3, 1), layers.Conv2D(2, 1)],
}
FIELDS = {"two 3x3": 5, "pooling": 8, "strides": 19, "dilated": 7, "overlapping pools": 7}


@pytest.mark.parametrize("name", STACKS)
def test_formula_equals_measurement(name):
    model = built(*STACKS[name], size=40)
    by_formula = list(costs.receptive_fields(model).values())[-1]
    assert by_formula == costs.measured_receptive_field(model) == FIELDS[name]


@pytest.mark.parametrize(("network", "layer", "pixels"), [("VGG16", "block5_pool", 212), ("ResNet50", "", 483)])
def test_formula_equals_measurement_on_real_networks(network, layer, pixels):
    with costs.blueprint():
        model = getattr(keras.applications, network)(weights=None, include_top=False)
        last = layer or model.layers[-1].name
        formula = costs.receptive_fields(model)[last]
    assert formula == costs.measured_receptive_field(model, last) == pixels


def test_layers_that_see_everything_are_left_out():
    model = built(layers.Conv2D(4, 3, name="seeing"), layers.Flatten(), layers.Dense(2))
    assert list(costs.receptive_fields(model)) == ["seeing"]


def test_the_whole_image_is_not_measured():
    """What comes before the layer that sees everything is measured, what comes after it is refused."""
    model = built(layers.Conv2D(4, 3, name="seeing"), layers.GlobalAveragePooling2D(), layers.Dense(2))
    assert costs.measured_receptive_field(model, "seeing") == 3
    with pytest.raises(ValueError, match="global_average_pooling2d.* sees the whole image"):
        costs.measured_receptive_field(model)


def test_layers_added_one_by_one():
    model = built(size=40)
    for layer in STACKS["pooling"]:
        model.add(type(layer).from_config(layer.get_config()))
    assert list(costs.receptive_fields(model).values()) == [3, 4, 8]
    assert costs.measured_receptive_field(model) == 8 and costs.depth(model) == 2


def test_a_field_without_end_is_refused(monkeypatch):
    everything = np.ones((32, 32))
    monkeypatch.setattr(costs, "_central_gradient", lambda model, layer, size: everything)
    with pytest.raises(ValueError, match="sees more than 4,096 pixels"):
        costs.measured_receptive_field(built(layers.Conv2D(4, 3)))
