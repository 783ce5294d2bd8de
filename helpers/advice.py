"""Which transfer scenario are these images in? Measured, with the evidence."""

from __future__ import annotations

import gc
from dataclasses import dataclass

import keras
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit
from threadpoolctl import threadpool_limits

from helpers.features import extract
from helpers.models import CUTS, vgg16_every_cut
from helpers.pictures import check_images, resize

LARGE = 500  # images per class from which a data set counts as large; notebook 03 measures what that changes
ROUNDS = 5  # divisions into fitting and judging

WHAT_TO_DO = {
    ("small", "similar"): "replace the output layer; take features from the cut that probes best",
    ("large", "similar"): "start from a linear probe at the best cut, then retrain everything with a small rate",
    ("small", "dissimilar"): "replace the output layer at the best cut, an early one; then try later blocks",
    ("large", "dissimilar"): "linear probe at the best cut, then retrain; training from scratch is the rival",
}


@dataclass(frozen=True)
class Advice:
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
        if self.scenario is None:
            return "\n".join([*lines, f"too few images: {self.sure}"])
        return "\n".join(
            [*lines, f"{' and '.join(self.scenario)}: {WHAT_TO_DO[self.scenario]} ({self.cut})", self.sure]
        )


def advise(images: np.ndarray, labels: np.ndarray, size: int = 32, most: int = 600, seed: int = 0) -> Advice:
    """The transfer scenario of training images, from their number and from linear probes on VGG16.

    images: uint8, (n, h, w, 3), RGB, 0-255; labels: integers, (n,). Looks at `most` images at most. Similar to
    ImageNet means: the last two blocks, made for photographs, probe better than the two before them;
    dissimilar: worse. A tie within twice its standard error is not decided. Small is below 500 images per class. Raises
    ValueError for other shapes, one class, or a class with one image.
    """
    check_images(images)
    labels = np.asarray(labels)
    if labels.shape != (len(images),):
        raise ValueError(f"{len(images)} images need as many labels, not {labels.shape}")
    _, labels, counts = np.unique(labels, return_inverse=True, return_counts=True)
    classes, per_class = len(counts), int(counts.min())
    if classes < 2 or per_class < 2:
        raise ValueError(f"{classes} classes, {per_class} images in the smallest: two of each are the least")
    if per_class < 5 or len(labels) < 60:
        reason = f"{len(labels)} images, {per_class} in the smallest class; from 60 and 5 on it can be measured"
        return Advice(None, "", per_class, classes, (), reason)
    random = np.random.default_rng(seed)
    share = max(5, most // classes)
    chosen = np.concatenate([random.permutation(np.flatnonzero(labels == c))[:share] for c in range(classes)])
    scores = {w: _probe_every_cut(resize(images[chosen], size), labels[chosen], w, seed) for w in ("imagenet", None)}
    pretrained = scores["imagenet"]
    table = tuple(
        (cut, float(row.mean()), float(row.std(ddof=1)), float(other.mean()))
        for cut, row, other in zip(CUTS, pretrained, scores[None], strict=True)
    )
    best = int(pretrained.mean(axis=1).argmax())
    difference = pretrained[3:].mean(axis=0) - pretrained[1:3].mean(axis=0)
    # the divisions share images, so that their spread alone would be too sure of itself: add the binomial error
    judged = max(1, round(0.3 * len(chosen)))
    p = float(pretrained[best].mean())
    error = float(np.hypot(difference.std(ddof=1) / np.sqrt(ROUNDS), np.sqrt(p * (1 - p) / (judged * ROUNDS))))
    gain = 100 * float(pretrained[best].mean() - scores[None].mean(axis=1).max())
    facts = (
        f"blocks 4 and 5 against 2 and 3: {100 * difference.mean():+.1f} ± {100 * error:.1f} points; "
        f"pretraining is worth {gain:+.1f} points at the best cut"
    )
    chance = float(np.bincount(labels[chosen]).max() / len(chosen))
    if p - chance < 3 * np.sqrt(p * (1 - p) / judged):
        reason = f"the best probe, {p:.2f}, is no better than guessing, {chance:.2f}; late and early cuts look alike"
        return Advice(None, CUTS[best], per_class, classes, table, reason)
    if abs(difference.mean()) < 2 * error:
        return Advice(None, CUTS[best], per_class, classes, table, f"late and early cuts look alike ({facts})")
    similar = "similar" if difference.mean() > 0 else "dissimilar"
    how = "sure" if abs(difference.mean()) > 4 * error else "fairly sure"
    scenario = ("large" if per_class >= LARGE else "small", similar)
    return Advice(scenario, CUTS[best], per_class, classes, table, f"{how}: {facts}")


def _probe_every_cut(images: np.ndarray, labels: np.ndarray, weights: str | None, seed: int) -> np.ndarray:
    """Accuracies of linear probes, (5 cuts, ROUNDS): fitted to 70 % of the images, judged on the others."""
    keras.utils.set_random_seed(seed)
    network, widths = vgg16_every_cut(images.shape[1], weights=weights)
    features = np.split(np.array(extract(network, images)), np.cumsum(widths)[:-1], axis=1)
    del network
    gc.collect()  # networks are held by reference cycles, and this one weighs 59 MB
    rounds = StratifiedShuffleSplit(ROUNDS, test_size=0.3, random_state=seed)
    divisions = list(rounds.split(np.zeros(len(labels)), labels))
    scores = np.empty((len(CUTS), ROUNDS))
    with threadpool_limits(1):  # small matrices: fastest so, and the same on any number of cores
        for row, x in zip(scores, features, strict=True):
            # fewer images than features: turned into the images' own span, nothing is lost and fitting is quick
            u, lengths, _ = np.linalg.svd(x, full_matrices=False)
            x = u * (lengths / x.std())
            for number, (fit, judge) in enumerate(divisions):
                probe = LogisticRegression(C=0.03, max_iter=500, tol=1e-2).fit(x[fit], labels[fit])
                row[number] = probe.score(x[judge], labels[judge])
    return scores
