"""Networks that several notebooks use. All take raw RGB images, 0-255: preprocessing is a layer inside.

That removes the most common mistake with pretrained networks. What is frozen, how a network is compiled
and how it is trained stays in the notebooks: it is what they teach.
"""

import itertools
import math

import keras
import numpy as np
from keras import KerasTensor as Tensor
from keras import layers

from helpers import weights as weight_files
from helpers.data import imagenet_classes
from helpers.weights import VGG16_BLOCKS

CUTS = tuple(f"block{block}_pool" for block in range(1, len(VGG16_BLOCKS) + 1))

# Mean of ImageNet's training images, 0-255, in the order blue, green, red (keras.applications, "caffe" mode).
IMAGENET_MEAN_BGR = (103.939, 116.779, 123.68)


def _check_choice(what: str, value: object, *choices: object) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"unknown {what} {value!r}: choose {', '.join(map(repr, choices))}")


def vgg16_preprocessing(images: Tensor, mode: str) -> Tensor:
    """RGB images, 0-255, as VGG16 wants them.

    mode "imagenet": BGR minus ImageNet's mean, with which VGG16 was trained. "unit": RGB / 255, which
    many tutorials use instead. "none": unchanged. Raises ValueError for another mode.
    """
    if mode == "imagenet":
        flipped = keras.ops.flip(images, axis=-1)
        return layers.Normalization(mean=IMAGENET_MEAN_BGR, variance=(1.0, 1.0, 1.0), name="imagenet_mean")(flipped)
    if mode == "unit":
        return layers.Rescaling(1 / 255, name="unit_scale")(images)
    _check_choice("preprocessing", mode, "imagenet", "unit", "none")
    return images


def vgg16(
    cut: str = "block5_pool", size: int = 224, preprocessing: str = "imagenet", weights: str | None = "imagenet"
) -> keras.Model:
    """VGG16's convolutional base up to the pooling layer `cut`, for images of size x size pixels.

    Input (n, size, size, 3), RGB, 0-255; output (n, size / 2^b, size / 2^b, channels) after block b.
    Layer names are those of keras.applications.VGG16. `weights`: "imagenet" or None (random, for
    comparison). K. Simonyan and A. Zisserman, 2014, configuration D. Raises ValueError, FileError.
    """
    _check_choice("cut", cut, *CUTS)
    _check_choice("weights", weights, "imagenet", None)
    depth = CUTS.index(cut) + 1
    if size < 2**depth:
        raise ValueError(f"size {size} is too small for {cut}: its {depth} poolings need at least {2**depth} pixels")
    inputs = keras.Input((size, size, 3), name="images")
    x = vgg16_preprocessing(inputs, preprocessing)
    for block, (convolutions, channels) in enumerate(VGG16_BLOCKS[:depth], 1):
        for convolution in range(1, convolutions + 1):
            name = f"block{block}_conv{convolution}"
            x = layers.Conv2D(channels, 3, padding="same", activation="relu", name=name)(x)
        x = layers.MaxPooling2D(2, name=f"block{block}_pool")(x)
    model = keras.Model(inputs, x, name=f"vgg16_{cut}")
    if weights == "imagenet":
        for name, arrays in weight_files.vgg16_base().items():
            if name in {layer.name for layer in model.layers}:
                model.get_layer(name).set_weights(arrays)
    return model


# EfficientNet-Lite's stages: repeats, kernel, stride, expansion, channels. R. Liu (Google), 2020, after
# M. Tan and Q. V. Le, 2019, without squeeze-and-excitation and with ReLU6.
_LITE_STAGES = (
    *((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80)),
    *((3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)),
)
_LITE_MULTIPLIERS = {0: (1.0, 1.0), 2: (1.1, 1.2)}  # version: width, depth


def efficientnet_lite0(size: int = 224, **options) -> keras.Model:
    """EfficientNet-Lite0: see `efficientnet_lite`. 4,694,024 numbers with the BatchNorm statistics."""
    return efficientnet_lite(0, size, **options)


def efficientnet_lite(
    version: int,
    size: int = 224,
    preprocessing: str = "imagenet",
    weights: str | None = "imagenet",
    include_top: bool = True,
) -> keras.Model:
    """EfficientNet-Lite0 or -Lite2: input (n, size, size, 3), RGB, 0-255; output (n, 1000) probabilities.

    Version 2 is 1.1 times as wide and 1.2 times as deep: 6,150,168 numbers. Stem, head and the repeats of
    the first and the last stage are the same in both. Without the top, the output is the last feature map
    (n, size / 32, size / 32, 1280). preprocessing "imagenet" computes (x - 127) / 128 inside, "none" expects
    it done. Raises ValueError, FileError.
    """
    _check_choice("version", version, *_LITE_MULTIPLIERS)
    _check_choice("preprocessing", preprocessing, "imagenet", "none")
    _check_choice("weights", weights, "imagenet", None)
    if size < 32:
        raise ValueError(f"size {size} is too small: EfficientNet-Lite halves it five times, so 32 is the least")
    width, depth = _LITE_MULTIPLIERS[version]
    inputs = keras.Input((size, size, 3), name="images")
    x = inputs if preprocessing == "none" else layers.Rescaling(1 / 128, -127 / 128, name="imagenet_scale")(inputs)
    x = _conv_bn(x, 32, 3, 2, "stem")
    block = 0
    for stage, (repeats, kernel, stride, expansion, channels) in enumerate(_LITE_STAGES):
        if 0 < stage < len(_LITE_STAGES) - 1:
            repeats = math.ceil(repeats * depth)
        channels = 8 * round(channels * width / 8)
        for repeat in range(repeats):
            x = _inverted_residual(x, kernel, stride if repeat == 0 else 1, expansion, channels, f"block{block}")
            block += 1
    x = _conv_bn(x, 1280, 1, 1, "head")
    if include_top:
        x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
        x = layers.Dense(1000, activation="softmax", name="predictions")(x)
    model = keras.Model(inputs, x, name=f"efficientnet_lite{version}")
    if weights == "imagenet":
        _set_lite_weights(model, weight_files.efficientnet_lite(version))
    return model


def _conv_bn(x: Tensor, channels: int, kernel: int, stride: int, name: str, relu: bool = True) -> Tensor:
    """Convolution without bias, BatchNorm and, unless it is a projection, ReLU6."""
    x = layers.Conv2D(channels, kernel, stride, padding="same", use_bias=False, name=f"{name}_conv")(x)
    x = layers.BatchNormalization(epsilon=1e-3, name=f"{name}_bn")(x)
    return layers.ReLU(6.0, name=f"{name}_relu")(x) if relu else x


def _inverted_residual(x: Tensor, kernel: int, stride: int, expansion: int, channels: int, name: str) -> Tensor:
    """MobileNetV2's block: widen with 1x1, filter each channel, project with 1x1, add the input."""
    shortcut = x
    if expansion > 1:
        x = _conv_bn(x, expansion * x.shape[-1], 1, 1, f"{name}_expand")
    x = layers.DepthwiseConv2D(kernel, stride, padding="same", use_bias=False, name=f"{name}_dw_conv")(x)
    x = layers.ReLU(6.0, name=f"{name}_dw_relu")(layers.BatchNormalization(epsilon=1e-3, name=f"{name}_dw_bn")(x))
    x = _conv_bn(x, channels, 1, 1, f"{name}_project", relu=False)
    if stride == 1 and shortcut.shape[-1] == channels:
        x = layers.Add(name=f"{name}_add")([shortcut, x])
    return x


def _set_lite_weights(model: keras.Model, arrays: dict[str, np.ndarray]) -> None:
    """Copy the PyTorch arrays into the Keras layers, turned to Keras's order of axes.

    Both networks list their layers in the order in which an image goes through them.
    """
    groups = itertools.groupby(arrays, lambda name: name.rpartition(".")[0])
    axes = {layers.DepthwiseConv2D: (2, 3, 0, 1), layers.Conv2D: (2, 3, 1, 0), layers.Dense: (1, 0)}
    # without the top, the arrays of the dense layer are left over
    for layer, (_, names) in zip([layer for layer in model.layers if layer.weights], groups, strict=False):
        first, *others = [arrays[name] for name in names if not name.endswith("num_batches_tracked")]
        layer.set_weights([first.transpose(axes.get(type(layer))), *others])


def resnet50(path: str = "", download_allowed: bool = False) -> keras.Model:
    """keras.applications.ResNet50 with its official ImageNet weights and 1000-class head.

    Expects images that went through keras.applications.resnet50.preprocess_input. 25,636,712
    parameters. Where the weights come from: see helpers.weights.resnet50, which raises WeightsUnavailable.
    """
    file = weight_files.resnet50(path, download_allowed)
    model = keras.applications.ResNet50(weights=None)
    model.load_weights(file)
    print(f"ResNet50: official ImageNet weights from {file.name}, MD5 verified")
    return model


def decode_predictions(probabilities: np.ndarray, top: int = 5) -> list[list[tuple[str, str, float]]]:
    """The `top` most probable ImageNet classes of each image: [(WordNet id, name, probability), ...].

    probabilities: (n, 1000). Same result as keras.applications' function of that name, whose class table
    is a download. Raises ValueError for another shape.
    """
    probabilities = np.asarray(probabilities)
    if probabilities.ndim != 2 or probabilities.shape[1] != 1000:
        raise ValueError(f"probabilities must have shape (n, 1000), not {probabilities.shape}")
    classes = imagenet_classes()
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    return [[(*classes[i], float(row[i])) for i in best] for row, best in zip(probabilities, order, strict=True)]


def parameter_counts(model: keras.Model) -> tuple[int, int, int]:
    """Numbers in the weights of `model`: (all, trainable, frozen), as in its summary."""
    trainable = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    return model.count_params(), trainable, model.count_params() - trainable
