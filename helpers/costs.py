"""What a network costs and sees: multiply-adds and parameters per layer, depth, receptive fields.

Everything is worked out from the layers of a built Keras model, so it holds for whatever was built, not
for what a paper says was built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import layers

CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D)
POOLINGS = (layers.MaxPooling2D, layers.AveragePooling2D)
# Layers that may have weights or move values about, but multiply no kernel with anything.
_ELEMENTWISE = (
    *(layers.BatchNormalization, layers.LayerNormalization, layers.Normalization, layers.Rescaling, layers.PReLU),
    *(layers.Activation, layers.ReLU, layers.LeakyReLU, layers.Dropout, layers.SpatialDropout2D),
    *(layers.Add, layers.Concatenate, layers.Multiply, layers.ZeroPadding2D, layers.InputLayer),
)


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

    Every number in a kernel is multiplied once for each output position, so multiply-adds are kernel size
    times output positions. Biases, BatchNorm, activations and pooling are left out, as papers do; papers
    call the result FLOPs. Models inside the model are opened; a layer called twice counts once. Raises
    ValueError for a layer whose cost is not known here (attention, transposed convolution) or not fixed.
    """
    costs = []
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            costs += layer_costs(layer)
            continue
        kernels = _kernels(layer)
        if not kernels:
            continue
        positions = layer.output.shape[1:-1]
        if None in positions:
            raise ValueError(f"{layer.name}: its output size {positions} is open; build the model for a fixed size")
        weights = sum(int(np.prod(kernel.shape)) for kernel in kernels)
        costs.append(LayerCost(layer.name, _kind(layer), weights * int(np.prod(positions)), layer.count_params()))
    return costs


def multiply_adds(model: keras.Model) -> int:
    """Multiply-adds of `model` for one image (see layer_costs)."""
    return sum(cost.multiply_adds for cost in layer_costs(model))


def _kernels(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The kernels that `layer` slides over or multiplies with its input."""
    if isinstance(layer, layers.SeparableConv2D):
        return [layer.depthwise_kernel, layer.pointwise_kernel]
    if isinstance(layer, layers.DepthwiseConv2D | layers.Conv2D | layers.Dense):
        return [layer.kernel]
    if layer.weights and not isinstance(layer, _ELEMENTWISE):
        raise ValueError(f"{layer.name}: multiply-adds of a {type(layer).__name__} layer are not known here")
    return []


def _kind(layer: keras.layers.Layer) -> str:
    kinds = {layers.SeparableConv2D: "separable", layers.DepthwiseConv2D: "depthwise", layers.Dense: "dense"}
    return next((kind for known, kind in kinds.items() if isinstance(layer, known)), "convolution")


def depth(model: keras.Model) -> int:
    """Layers with a kernel on the longest way from input to output; a separable convolution is one layer."""

    def step(operation, before):
        return max(before, default=0) + bool(isinstance(operation, (*CONVOLUTIONS, layers.Dense)))

    return max(_along_the_graph(model, step).values())


def receptive_fields(model: keras.Model) -> dict[str, int]:
    """Side of the square of input pixels that one output position of each layer sees: {layer: pixels}.

    By the formula: a kernel of k pixels (dilated: (k - 1) * dilation + 1) adds (k - 1) times the distance,
    in input pixels, of neighbouring positions; a stride multiplies that distance. Layers that see the
    whole image (flatten, global pooling, dense) and those after them are left out. See
    measured_receptive_field for the measurement.
    """

    def step(operation, before):
        if None in before or isinstance(operation, _WHOLE_IMAGE):
            return None
        size, distance = max(before, default=(1, 1))
        if isinstance(operation, (*CONVOLUTIONS, *POOLINGS)):
            kernel = operation.pool_size if isinstance(operation, POOLINGS) else operation.kernel_size
            dilation = 1 if isinstance(operation, POOLINGS) else operation.dilation_rate[0]
            size += (kernel[0] - 1) * dilation * distance
            distance *= operation.strides if isinstance(operation.strides, int) else operation.strides[0]
        return size, distance

    return {name: field[0] for name, field in _along_the_graph(model, step).items() if field}


_WHOLE_IMAGE = (layers.Flatten, layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D, layers.Dense)


def _along_the_graph(model: keras.Model, step: Callable) -> dict:
    """{name: step(operation, values of the operations before it)} from the inputs of `model` to its outputs.

    Raises ValueError where the way through the model is not plain: models inside it, layers used twice.
    """
    if nested := [layer.name for layer in model.layers if isinstance(layer, keras.Model)]:
        raise ValueError(f"{model.name} contains the model {nested[0]}: look at the two separately")
    values, of_tensor = {}, {}
    if isinstance(model, keras.Sequential):
        for layer in model.layers:
            values[layer.name] = step(layer, list(values.values())[-1:])
        return values
    for operation in model.operations:
        before = [] if isinstance(operation, layers.InputLayer) else keras.tree.flatten(operation.input)
        if not all(id(tensor) in of_tensor for tensor in before):
            raise ValueError(f"{operation.name} is used more than once: the way through it is not plain")
        values[operation.name] = step(operation, [of_tensor[id(tensor)] for tensor in before])
        of_tensor |= {id(tensor): values[operation.name] for tensor in keras.tree.flatten(operation.output)}
    if not all(id(tensor) in of_tensor for tensor in model.outputs):
        raise ValueError(f"a layer of {model.name} is used more than once: the way through it is not plain")
    return values


def measured_receptive_field(model: keras.Model, layer: str = "") -> int:
    """Side of the square of input pixels that move one output position of `layer` (default: the last one).

    Measured: in a copy of the network whose kernels are all ones, with one channel, without ReLU and with
    averages for maxima - so that no influence is hidden or cancelled - the gradient of the central
    position is taken with respect to the input, and the rows in which it is not zero are counted. The
    input is enlarged until they do not reach its edge. Raises ValueError above 4,096 pixels.
    """
    name = layer or model.layers[-1].name
    size = 32
    while size <= 4096:
        rows = np.flatnonzero(_central_gradient(model, name, size).any(axis=1))
        if len(rows) and rows[0] > 0 and rows[-1] < size - 1:
            return int(rows[-1] - rows[0] + 1)
        size *= 2
    raise ValueError(f"{name} sees more than 4,096 pixels, or the whole image whatever its size")


def _central_gradient(model: keras.Model, name: str, size: int) -> np.ndarray:
    """Gradient (size, size) of the central position of layer `name`, in the all-ones copy of `model`."""
    copy = keras.models.clone_model(
        model, input_tensors=keras.Input((size, size, 1), dtype="float64"), clone_function=_all_ones
    )
    part = keras.Model(copy.inputs, copy.get_layer(name).output)
    image = tf.Variable(tf.zeros((1, size, size, 1), tf.float64))
    with tf.GradientTape() as tape:
        output = part(image)
        central = tf.reduce_sum(output[0, output.shape[1] // 2, output.shape[2] // 2])
    return tape.gradient(central, image)[0, :, :, 0].numpy()


class _Unchanged(layers.Layer):
    """Stands in for activations and normalisation: passes its input on."""

    def call(self, inputs, mask=None, training=None):
        return inputs


def _all_ones(layer: keras.layers.Layer) -> keras.layers.Layer:
    """A copy of `layer` that passes every influence on: ones for weights, no cut-off, one channel."""
    config = layer.get_config() | {"dtype": "float64"}
    if isinstance(layer, POOLINGS):
        return layers.AveragePooling2D.from_config(config)
    if isinstance(layer, layers.Add | layers.Concatenate | layers.ZeroPadding2D | layers.InputLayer):
        return type(layer).from_config(config)
    if not isinstance(layer, CONVOLUTIONS):
        return _Unchanged(name=layer.name, dtype="float64")
    ones = {key: "ones" for key in config if key.endswith("kernel_initializer")}
    one_channel = {key: 1 for key in ("filters", "groups", "depth_multiplier") if key in config}
    return type(layer).from_config(config | ones | one_channel | {"activation": "linear", "use_bias": False})
