"""Networks of notebook 01 that Keras does not bring along and that are too long for a lesson."""

from __future__ import annotations

import keras
from keras import layers

# C. Szegedy et al., "Going deeper with convolutions", 2014, table 1. Per module the channels of: 1x1;
# 3x3 after its 1x1 bottleneck; 5x5 after its bottleneck; 1x1 after pooling. "pool" halves the map.
GOOGLENET_MODULES = {
    **{"3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64), "pool3": ()},
    **{"4a": (192, 96, 208, 16, 48, 64), "4b": (160, 112, 224, 24, 64, 64), "4c": (128, 128, 256, 24, 64, 64)},
    **{"4d": (112, 144, 288, 32, 64, 64), "4e": (256, 160, 320, 32, 128, 128), "pool4": ()},
    **{"5a": (256, 160, 320, 32, 128, 128), "5b": (384, 192, 384, 48, 128, 128)},
}


def inception_module(x: keras.KerasTensor, channels: tuple[int, ...], name: str) -> keras.KerasTensor:
    """One Inception module: four transforms of `x` side by side, their channels joined.

    channels: (1x1, 3x3 bottleneck, 3x3, 5x5 bottleneck, 5x5, after pooling). Height and width stay.
    """

    def convolution(inputs, filters, size, part):
        return layers.Conv2D(filters, size, padding="same", activation="relu", name=f"{name}_{part}")(inputs)

    one, reduce3, three, reduce5, five, pooled = channels
    branches = [
        convolution(x, one, 1, "1x1"),
        convolution(convolution(x, reduce3, 1, "3x3_reduce"), three, 3, "3x3"),
        convolution(convolution(x, reduce5, 1, "5x5_reduce"), five, 5, "5x5"),
        convolution(layers.MaxPooling2D(3, 1, padding="same", name=f"{name}_pool")(x), pooled, 1, "pool_proj"),
    ]
    return layers.Concatenate(name=name)(branches)


def googlenet(size: int = 224, classes: int = 1000) -> keras.Model:
    """GoogLeNet (Inception v1) without its two auxiliary classifiers, which only help training.

    Input (n, size, size, 3); output (n, classes) probabilities; random weights. Local response
    normalisation, which has no parameters, is left out. 6,998,552 parameters at 1,000 classes.
    Raises ValueError below 32 pixels, where the maps would vanish.
    """
    if size < 32:
        raise ValueError(f"size {size} is too small: GoogLeNet halves it five times, so 32 is the least")
    relu = {"padding": "same", "activation": "relu"}
    inputs = keras.Input((size, size, 3), name="images")
    x = layers.Conv2D(64, 7, 2, name="conv1", **relu)(inputs)
    x = layers.MaxPooling2D(3, 2, padding="same", name="pool1")(x)
    x = layers.Conv2D(64, 1, name="conv2_reduce", **relu)(x)
    x = layers.Conv2D(192, 3, name="conv2", **relu)(x)
    x = layers.MaxPooling2D(3, 2, padding="same", name="pool2")(x)
    for name, channels in GOOGLENET_MODULES.items():
        pool = layers.MaxPooling2D(3, 2, padding="same", name=name)
        x = inception_module(x, channels, f"inception_{name}") if channels else pool(x)
    x = layers.Dropout(0.4, name="dropout")(layers.GlobalAveragePooling2D(name="avg_pool")(x))
    return keras.Model(inputs, layers.Dense(classes, activation="softmax", name="predictions")(x), name="googlenet")
