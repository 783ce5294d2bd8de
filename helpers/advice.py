"""Which recipe of transfer learning do these images call for? Measured on frozen features, with the evidence."""

from typing import NamedTuple

import keras
import numpy as np
from keras import layers
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from helpers.features import extract
from helpers.images import check_images, resize
from helpers.models import efficientnet_lite0

MIN_IMAGES, MIN_PER_CLASS = 50, 5  # fewer than these say nothing about a recipe
SOME, MANY = 200, 1000  # training images from which training everything is advised; MANY: for similar images, too
LITTLE_LEFT = 0.03  # share of errors below which there is hardly anything to gain
WIDTH = 64  # numbers per image to which the features of every stage are reduced
STAGES = {"middle": "block10_add", "last": "head_relu"}
RECIPES = {
    "probe": "a new output layer on frozen features",
    "train last two stages": "start from the probe, then train the last two stages with a small rate",
    "train everything": "start from the probe, then train everything with a small rate, BatchNorm layers frozen",
}
UNKNOWN = "Not known: what training more gains, whether you will meet images like these, whether the labels are right."


class Advice(NamedTuple):
    """recipe: a key of RECIPES. similar: True, False, or None where it could not be told. `str()` gives the reasons.

    accuracy: {features: share of images that a cross-validated probe gets right}; empty when there are too few images.
    """

    recipe: str
    similar: bool | None
    accuracy: dict[str, float]
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([f"Recipe: {RECIPES[self.recipe]}.", *(f"- {reason}" for reason in self.reasons), UNKNOWN])


def advise(images: np.ndarray, labels: np.ndarray, size: int = 96, max_images: int = 600, seed: int = 0) -> Advice:
    """A recipe for training images, from their number and from cross-validated linear probes on EfficientNet-Lite0.

    images: uint8, (n, h, w, 3), RGB; labels: integers, (n,). Looks at `max_images` at most. Similar to ImageNet means
    that the last stage probes better than the middle one, at equal width and by more than twice the standard error of
    the paired difference. Raises ValueError for other shapes and for a single class.
    """
    check_images(images)
    if np.shape(labels) != (len(images),):
        raise ValueError(f"{len(images)} images need as many labels, not {np.shape(labels)}")
    _, labels, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(counts) < 2:
        raise ValueError("labels of one class only: two are the least")
    n, least = len(labels), int(counts.min())
    if n < MIN_IMAGES or least < MIN_PER_CLASS:
        few = f"{n} images, {least} in the smallest class: too few to measure ({MIN_IMAGES} and {MIN_PER_CLASS} needed)"
        return Advice("probe", None, {}, (few,))
    most = max(MIN_PER_CLASS, max_images // len(counts))
    shuffled = np.random.default_rng(seed).permutation(n)
    chosen = np.concatenate([shuffled[labels[shuffled] == label][:most] for label in range(len(counts))])
    small, labels = resize(images[chosen], size), labels[chosen]
    right = {"pixels": _right(resize(small, 16).reshape(len(small), -1), labels)}
    for weights, name in ((None, "random weights, "), ("imagenet", "")):
        keras.utils.set_random_seed(seed)
        network = efficientnet_lite0(size, weights=weights, include_top=False)
        pooled = [layers.GlobalAveragePooling2D()(network.get_layer(layer).output) for layer in STAGES.values()]
        features = extract(keras.Model(network.input, layers.Concatenate()(pooled)), small)
        for stage, part in zip(STAGES, np.split(features, [pooled[0].shape[-1]], axis=1), strict=True):
            right[f"{name}{stage} stage"] = _right(part, labels)
    accuracy = {name: float(one.mean()) for name, one in right.items()}
    gain = right["last stage"].astype(float) - right["middle stage"]
    difference, error = gain.mean(), gain.std() / np.sqrt(len(gain))
    similar = None if abs(difference) <= 2 * error else bool(difference > 0)
    recipe = "train everything" if n >= SOME else "train last two stages"
    if 1 - accuracy["last stage"] < LITTLE_LEFT or (similar and n < MANY):
        recipe = "probe"
    verdict = "not told apart" if similar is None else f"{'similar to' if similar else 'different from'} ImageNet"
    reasons = (
        f"{n:,} images of {len(counts)} classes, {least} in the smallest; {len(labels)} were looked at",
        f"last stage against the middle one: {100 * difference:+.1f} ± {200 * error:.1f} points: {verdict}",
        *(f"probe on {name}: {100 * share:.1f} % right" for name, share in accuracy.items()),
    )
    return Advice(recipe, similar, accuracy, reasons)


def _right(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """For each image, whether a probe on WIDTH numbers is right about it that was fitted without it."""
    reduced = PCA(min(WIDTH, len(labels) // 2), svd_solver="randomized", random_state=0)
    regression = LogisticRegression(C=0.1, max_iter=300, tol=1e-3)
    probe = make_pipeline(StandardScaler(), reduced, StandardScaler(), regression)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    with threadpool_limits(1):  # small matrices: fastest so, and the same on any number of cores
        return cross_val_predict(probe, np.asarray(features), labels, cv=folds) == labels
