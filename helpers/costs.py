"""What a network costs and sees: multiply-adds and parameters per layer, depth, receptive fields.

Everything is worked out from the layers of a built Keras model, so it holds for whatever was built, not
for what a paper says was built.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import layers

KINDS = {layers.Conv2D: "convolution", layers.DepthwiseConv2D: "depthwise"}
KINDS |= {layers.SeparableConv2D: "separable", layers.Dense: "dense"}
_WHOLE_IMAGE = (layers.Flatten, layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D, layers.Dense)


class LayerCost(NamedTuple):
    """One layer: its kind ("convolution", "depthwise", "separable" or "dense") and what it costs per image."""

    name: str
    kind: str
    multiply_adds: int
    parameters: int


@contextmanager
def blueprint() -> Iterator[None]:
    """Networks built inside this block have all their shapes but no weights: to be counted, not to be run.

        with blueprint():
            model = keras.applications.VGG19(weights=None)

    Counting needs no more, and 144 million random numbers take seconds and over a gigabyte. Keras's
    names start from 1 again afterwards (keras.utils.clear_session).
    """
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        keras.utils.clear_session()  # else Keras would draw the numbers at the next opportunity


def layer_costs(model: keras.Model) -> list[LayerCost]:
    """Multiply-adds and parameters of every layer of `model` that has a kernel, in order, for one image.

    A kernel is a weight with more than one axis. Every number in it is multiplied once for each output
    position, so multiply-adds are kernel size times output positions. Biases, BatchNorm, activations and
    pooling are left out, as papers do; papers call the result FLOPs. Models inside the model are opened; a
    layer called twice counts once. Raises ValueError for a layer whose cost is not known here (attention,
    transposed convolution) or not fixed.
    """
    costs = []
    for layer in model.layers:
        kernels = [weight.shape for weight in layer.weights if len(weight.shape) > 1]
        if isinstance(layer, keras.Model):
            costs += layer_costs(layer)
        elif kernels:
            if type(layer) not in KINDS:
                raise ValueError(f"{layer.name}: multiply-adds of a {type(layer).__name__} layer are not known here")
            positions = layer.output.shape[1:-1]
            if None in positions:
                raise ValueError(f"{layer.name}: its output size {positions} is open; build the model for a fixed size")
            work = math.prod(positions) * sum(math.prod(kernel) for kernel in kernels)
            costs.append(LayerCost(layer.name, KINDS[type(layer)], work, layer.count_params()))
    return costs


def multiply_adds(model: keras.Model) -> int:
    """Multiply-adds of `model` for one image (see layer_costs)."""
    return sum(cost.multiply_adds for cost in layer_costs(model))


def depth(model: keras.Model) -> int:
    """Layers with a kernel on the longest way from input to output; a separable convolution is one layer."""
    return max(layers_before for layers_before, _, _ in _ways(model).values())


def receptive_fields(model: keras.Model) -> dict[str, int]:
    """Side of the square of input pixels that one output position of each layer sees: {layer: pixels}.

    By the formula: a kernel of k pixels (dilated: (k - 1) * dilation + 1) adds (k - 1) times the distance,
    in input pixels, of neighbouring positions; a stride multiplies that distance. Layers that see the
    whole image (flatten, global pooling, dense) and those after them are left out. See
    measured_receptive_field for the measurement.
    """
    return {name: size for name, (_, size, _) in _ways(model).items() if size < math.inf}


def _ways(model: keras.Model) -> dict[str, tuple[int, float, int]]:
    """{layer: (layers with a kernel up to it, pixels that a position sees, pixels from one position to the next)}.

    Raises ValueError where the way through the model is not plain: models inside it, layers used twice.
    """
    way, ways, of_tensor = (0, 1, 1), {}, {}
    sequential = isinstance(model, keras.Sequential)
    for layer in model.layers if sequential else model.operations:
        if isinstance(layer, keras.Model):
            raise ValueError(f"{model.name} contains the model {layer.name}: look at the two separately")
        before = [way] if sequential else [of_tensor.get(id(tensor)) for tensor in keras.tree.flatten(layer.input)]
        if None in before:
            raise ValueError(f"{layer.name} is used more than once: the way through it is not plain")
        layers_before, size, distance = map(max, zip((0, 1, 1), *before, strict=True))
        if window := _window(layer):
            size += (window[0] - 1) * getattr(layer, "dilation_rate", (1,))[0] * distance
            distance *= layer.strides[0]
        elif isinstance(layer, _WHOLE_IMAGE):
            size = math.inf
        way = ways[layer.name] = layers_before + isinstance(layer, tuple(KINDS)), size, distance
        of_tensor |= {id(tensor): way for tensor in keras.tree.flatten(layer.output)}
    if not sequential and not all(id(tensor) in of_tensor for tensor in model.outputs):
        raise ValueError(f"a layer of {model.name} is used more than once: the way through it is not plain")
    return ways


def _window(layer: keras.layers.Layer) -> tuple[int, ...] | None:
    """Sides of the window that a convolution or a pooling moves over its input; None for other layers."""
    return getattr(layer, "kernel_size", getattr(layer, "pool_size", None))


def measured_receptive_field(model: keras.Model, layer: str = "") -> int:
    """Side of the square of input pixels that move one output position of `layer` (default: the last one).

    Measured: in a copy of the network whose kernels are all ones, with one channel, without ReLU and with
    sums for maxima - so that no influence is hidden or cancelled - the gradient of the central position is
    taken with respect to the input, and the rows in which it is not zero are counted. The input is
    enlarged until they do not reach its edge. Raises ValueError above 4,096 pixels, and where a layer on
    the way sees the whole image.
    """
    for size in (32, 64, 128, 256, 512, 1024, 2048, 4096):
        rows = np.flatnonzero(_central_gradient(model, layer, size).any(axis=1))
        if len(rows) and rows[0] > 0 and rows[-1] < size - 1:
            return int(rows[-1] - rows[0] + 1)
    raise ValueError(f"{layer or model.name} sees more than 4,096 pixels")


def _central_gradient(model: keras.Model, layer: str, size: int) -> np.ndarray:
    """Gradient (size, size) of the central position of `layer`, in the all-ones copy of `model`."""
    part = keras.Model(model.inputs, model.get_layer(layer).output if layer else model.outputs[0])
    copy = keras.models.clone_model(part, [keras.Input((size, size, 1), dtype="float64")], clone_function=_all_ones)
    image = tf.Variable(tf.zeros((1, size, size, 1), tf.float64))
    with tf.GradientTape() as tape:
        output = copy(image)
        central = tf.reduce_sum(output[0, output.shape[1] // 2, output.shape[2] // 2])
    return tape.gradient(central, image)[0, :, :, 0].numpy()


def _all_ones(layer: keras.layers.Layer) -> keras.layers.Layer:
    """What stands for `layer` in the copy: a convolution of ones for every convolution and every pooling."""
    if window := _window(layer):
        ones = {"dilation_rate": getattr(layer, "dilation_rate", 1), "use_bias": False, "kernel_initializer": "ones"}
        return layers.Conv2D(1, window, layer.strides, layer.padding, **ones, name=layer.name, dtype="float64")
    if isinstance(layer, layers.Add | layers.Concatenate | layers.ZeroPadding2D | layers.BatchNormalization):
        return type(layer).from_config(layer.get_config() | {"dtype": "float64"})
    if isinstance(layer, _WHOLE_IMAGE):
        raise ValueError(f"{layer.name} sees the whole image, whatever its size")
    return layers.Identity(name=layer.name, dtype="float64")
