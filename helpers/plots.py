"""The figures that several notebooks share. They draw with pyplot; notebooks end the cell with plt.show()."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np


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
