"""Which transfer scenario are these images in? Measured, with the evidence."""

from __future__ import annotations

import gc
from typing import NamedTuple

import keras
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score
from threadpoolctl import threadpool_limits

from helpers.features import extract
from helpers.images import check_images, resize
from helpers.models import CUTS, vgg16_every_cut

LARGE = 500  # images per class from which a data set counts as large; notebook 03 measures what that changes
ROUNDS = 5  # divisions into fitting and judging
JUDGED = 0.3  # share of the images on which a probe is judged

WHAT_TO_DO = {
    ("small", "similar"): "replace the output layer; take features from the cut that probes best",
    ("large", "similar"): "start from a linear probe at the best cut, then retrain everything with a small rate",
    ("small", "dissimilar"): "replace the output layer at the best cut, an early one; then try later blocks",
    ("large", "dissimilar"): "linear probe at the best cut, then retrain; training from scratch is the rival",
}


class Advice(NamedTuple):
    """scenario: ("small" | "large", "similar" | "dissimilar"), or None: too few images to tell.

    table: for every cut (name, mean accuracy of a linear probe on pretrained features, its standard
    deviation over the divisions, the same on random features). `str()` gives all of it as text.
    """

    scenario: tuple[str, str] | None
    cut: str
    per_class: int
    classes: int
    table: tuple[tuple[str, float, float, float], ...]
    sure: str

    def __str__(self) -> str:
        lines = [f"{self.classes} classes, {self.per_class} images in the smallest"]
        if self.table:
            lines.append("cut          pretrained      random weights")
        lines += [f"{cut}  {mean:.2f} ± {spread:.2f}     {random:.2f}" for cut, mean, spread, random in self.table]
        if self.scenario:
            lines.append(f"{' and '.join(self.scenario)}: {WHAT_TO_DO[self.scenario]} ({self.cut})")
        return "\n".join([*lines, self.sure if self.scenario else f"too few images: {self.sure}"])


def advise(images: np.ndarray, labels: np.ndarray, size: int = 32, max_images: int = 600, seed: int = 0) -> Advice:
    """The transfer scenario of training images, from their number and from linear probes on VGG16.

    images: uint8, (n, h, w, 3), RGB, 0-255; labels: integers, (n,). Looks at `max_images` images at most. Similar to
    ImageNet means: the last two blocks, made for photographs, probe better than the two before them;
    dissimilar: worse. A tie within twice its standard error is not decided. Small is below 500 images per class. Raises
    ValueError for other shapes, one class, or a class with one image.
    """
    check_images(images)
    if np.shape(labels) != (len(images),):
        raise ValueError(f"{len(images)} images need as many labels, not {np.shape(labels)}")
    _, labels, counts = np.unique(labels, return_inverse=True, return_counts=True)
    classes, per_class = len(counts), int(counts.min())
    if classes < 2 or per_class < 2:
        raise ValueError(f"{classes} classes, {per_class} images in the smallest: two of each are the least")
    if per_class < 5 or len(labels) < 60:
        reason = f"{len(labels)} images, {per_class} in the smallest class; from 60 and 5 on it can be measured"
        return Advice(None, "", per_class, classes, (), reason)
    random = np.random.default_rng(seed)
    share = max(5, max_images // classes)
    chosen = np.concatenate([random.permutation(np.flatnonzero(labels == c))[:share] for c in range(classes)])
    images, labels = resize(images[chosen], size), labels[chosen]

    pretrained, untrained = (_probe_every_cut(images, labels, weights, seed) for weights in ("imagenet", None))
    means, spreads, others = pretrained.mean(axis=1), pretrained.std(axis=1, ddof=1), untrained.mean(axis=1)
    table = tuple(zip(CUTS, means.tolist(), spreads.tolist(), others.tolist(), strict=True))
    best, chance = means.max(), np.bincount(labels).max() / len(labels)
    differences = pretrained[3:].mean(axis=0) - pretrained[1:3].mean(axis=0)
    difference = differences.mean()
    # the divisions share images, so that their spread alone would be too sure of itself: add the binomial error
    binomial = np.sqrt(best * (1 - best) / round(JUDGED * len(labels)))
    error = np.hypot(differences.std(ddof=1), binomial) / np.sqrt(ROUNDS)

    facts = f"blocks 4 and 5 against 2 and 3: {100 * difference:+.1f} ± {100 * error:.1f} points; "
    facts += f"pretraining is worth {100 * (best - others.max()):+.1f} points at the best cut"
    scenario = None
    if best - chance < 3 * binomial:
        sure = f"the best probe, {best:.2f}, is no better than guessing, {chance:.2f}; late and early cuts look alike"
    elif abs(difference) < 2 * error:
        sure = f"late and early cuts look alike ({facts})"
    else:
        scenario = "large" if per_class >= LARGE else "small", "similar" if difference > 0 else "dissimilar"
        sure = f"{'sure' if abs(difference) > 4 * error else 'fairly sure'}: {facts}"
    return Advice(scenario, CUTS[means.argmax()], per_class, classes, table, sure)


def _probe_every_cut(images: np.ndarray, labels: np.ndarray, weights: str | None, seed: int) -> np.ndarray:
    """Accuracies of linear probes, (5 cuts, ROUNDS): fitted to 70 % of the images, judged on the others."""
    keras.utils.set_random_seed(seed)
    network, widths = vgg16_every_cut(images.shape[1], weights=weights)
    features = np.split(np.array(extract(network, images)), np.cumsum(widths)[:-1], axis=1)
    del network
    gc.collect()  # networks are held by reference cycles, and this one weighs 59 MB
    probe = LogisticRegression(C=0.03, max_iter=500, tol=1e-2)
    divisions = StratifiedShuffleSplit(ROUNDS, test_size=JUDGED, random_state=seed)
    scores = []
    with threadpool_limits(1):  # small matrices: fastest so, and the same on any number of cores
        for x in features:
            # fewer images than features: turned into the images' own span, nothing is lost and fitting is quick
            u, lengths, _ = np.linalg.svd(x, full_matrices=False)
            scores.append(cross_val_score(probe, u * (lengths / x.std()), labels, cv=divisions))
    return np.array(scores)
