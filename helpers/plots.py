"""The figures that several notebooks share. They draw with pyplot; notebooks end the cell with plt.show()."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import ConfusionMatrixDisplay
from sklearn.metrics import confusion_matrix as count_confusions


def image_grid(
    images: Sequence[np.ndarray],
    titles: Sequence[str],
    columns: int = 5,
    colours: Sequence[str] | None = None,
    title: str = "",
) -> None:
    """Images in rows of `columns`, each under its title; `colours`, one per title, may say what is right or wrong.

    images: each (h, w, 3) uint8 or (h, w) grey. Raises ValueError when the lengths differ or are 0.
    """
    if not len(images) or len(images) != len(titles):
        raise ValueError(f"image_grid needs one title per image: got {len(images)} images and {len(titles)} titles")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.2 * columns, 2.5 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for index, (axis, image, text) in enumerate(zip(axes.flat, images, titles, strict=False)):
        axis.imshow(image, cmap="gray", interpolation="nearest")
        axis.set_title(text, fontsize=9, color=colours[index] if colours else "black")
    figure.suptitle(title)


def confusion_matrix(true: np.ndarray, predicted: np.ndarray, class_names: Sequence[str], title: str = "") -> None:
    """Counts of (true class, predicted class); the diagonal is right. Colours show the mistakes.

    true, predicted: integers, (n,), indices into class_names. Raises ValueError for anything else.
    """
    classes = len(class_names)
    counts = np.zeros((classes, classes), int)
    if len(true):
        counts = count_confusions(true, predicted, labels=range(classes))
    if counts.sum() < len(true):  # others are not counted
        raise ValueError(f"{classes} class names, but classes outside 0 to {classes - 1}")
    names = [name.replace("_", " ") for name in class_names]
    side = max(3.5, 0.45 * classes + 1.5)
    _, axis = plt.subplots(figsize=(side, side), layout="constrained")
    display = ConfusionMatrixDisplay(counts, display_labels=names)
    rotation = 0 if max(map(len, names)) < 3 else 90
    text = {"color": "black", "fontsize": 8}
    display.plot(ax=axis, cmap="Reds", colorbar=False, xticks_rotation=rotation, text_kw=text)
    mistakes = counts - np.diag(np.diag(counts))
    display.im_.set(data=mistakes, clim=(0, max(1, 1.5 * mistakes.max())))
    right = np.trace(counts)
    axis.set(xlabel="predicted class", ylabel="true class", title=title or f"{right} of {counts.sum()} right")
