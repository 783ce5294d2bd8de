"""Where in a picture a classifier finds the evidence for a class: two methods that can be compared.

Both take the network as it is, and images that have been through its preprocessing.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import keras
import numpy as np
import tensorflow as tf


def last_feature_map(model: keras.Model) -> str:
    """Name of the last layer whose output still has height and width, which Grad-CAM looks at."""
    names = [layer.name for layer in model.layers if len(getattr(layer.output, "shape", ())) == 4]
    if not names:
        raise ValueError(f"{model.name} has no layer with a feature map (n, height, width, channels)")
    return names[-1]


def grad_cam(model: keras.Model, inputs: np.ndarray, class_index: int, layer: str = "") -> np.ndarray:
    """Grad-CAM of one image: how much each place of a feature map speaks for the class.

    inputs: (1, h, w, 3), preprocessed.  Returns float32, (h, w), 0 to 1; all 0 if nothing speaks for
    the class. The class score before softmax is differentiated with respect to the output of `layer`
    (default: the last feature map); the channels, weighted by their mean gradient, are added up,
    cut off below 0 and enlarged to the image. R. R. Selvaraju et al., 2017, arXiv:1610.02391.
    Raises ValueError for more than one image, an unknown class, or a model without class scores.
    """
    head = model.layers[-1]
    if not isinstance(head, keras.layers.Dense):
        raise ValueError(f"{model.name} ends in {type(head).__name__}: Grad-CAM needs a Dense layer of class scores")
    if len(inputs) != 1:
        raise ValueError(f"grad_cam explains one image at a time, not {len(inputs)}")
    if not 0 <= class_index < head.units:
        raise ValueError(f"class_index must be 0 to {head.units - 1}, not {class_index}")
    part = keras.Model(model.input, [model.get_layer(layer or last_feature_map(model)).output, head.input])
    with tf.GradientTape() as tape:
        features, pooled = part(inputs, training=False)
        score = tf.tensordot(pooled[0], head.kernel[:, class_index], 1)  # the bias has no gradient
    weights = tf.reduce_mean(tape.gradient(score, features), axis=(1, 2))
    heat = tf.nn.relu(tf.reduce_sum(features * weights[:, None, None], axis=-1))[0].numpy()
    heat = cv2.resize(heat, inputs.shape[2:0:-1], interpolation=cv2.INTER_LINEAR)
    return heat / heat.max() if heat.max() > 0 else heat


def occlusion(
    score: Callable[[np.ndarray], np.ndarray], image: np.ndarray, patch: int = 48, step: int = 16
) -> np.ndarray:
    """Occlusion sensitivity of one image: what its scores lose when a place is covered.

    score: uint8 images (n, h, w, 3) -> (n, k) numbers, such as the probabilities of k classes.
    image: uint8, (h, w, 3).  Returns float32, (k, h, w): a grey square of `patch` pixels moves over the
    image in strides of `step`, and each pixel gets the mean loss of the squares that covered it
    (negative: the score rises). M. D. Zeiler and R. Fergus, 2014, arXiv:1311.2901. Raises ValueError
    for a patch or step that does not fit.
    """
    height, width = image.shape[:2]
    if not 1 <= step <= patch <= min(height, width):
        raise ValueError(f"1 <= step <= patch <= {min(height, width)} is needed, not step {step} and patch {patch}")
    corners = [(top, left) for top in _starts(height, patch, step) for left in _starts(width, patch, step)]
    whole = score(image[None])[0]
    loss, covered = np.zeros((len(whole), height, width), np.float32), np.zeros((height, width), np.float32)
    for first in range(0, len(corners), 32):
        places = corners[first : first + 32]
        batch = np.repeat(image[None], len(places), axis=0)
        for picture, (top, left) in zip(batch, places, strict=True):
            picture[top : top + patch, left : left + patch] = 127
        for scores, (top, left) in zip(score(batch), places, strict=True):
            loss[:, top : top + patch, left : left + patch] += (whole - scores)[:, None, None]
            covered[top : top + patch, left : left + patch] += 1
    return loss / covered


def _starts(length: int, patch: int, step: int) -> list[int]:
    """Where squares begin along one side, the last one flush with the border so that all is covered."""
    return sorted({*range(0, length - patch + 1, step), length - patch})
