"""How well features will transfer, without training anything: LogME and H-score."""

from __future__ import annotations

import numpy as np


def _checked(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features as float64 rows, labels 0..k-1, images per class. Raises ValueError."""
    features, labels = np.asarray(features, np.float64), np.asarray(labels)
    if features.ndim < 2 or labels.shape != features.shape[:1]:
        raise ValueError(f"features (n, ...) need n labels; got shapes {features.shape} and {labels.shape}")
    if not np.isfinite(features).all():
        raise ValueError("features contain NaN or infinity")
    _, labels, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(counts) < 2 or counts.min() < 2:
        raise ValueError("at least two classes, and two images in each, are needed")
    return features.reshape(len(features), -1), labels, counts


def logme(features: np.ndarray, labels: np.ndarray) -> float:
    """LogME: mean over images and classes of the log evidence of a Bayesian linear model on the features.

    features: (n, ...), any real type; labels: (n,). Each class against the rest is a regression
    y ~ N(F w, 1/beta) with w ~ N(0, 1/alpha); alpha and beta maximise the evidence (fixed point). Higher
    is better; only differences on the same data mean something. K. You et al., 2021, arXiv:2102.11005,
    algorithm 1. Scale of the features does not matter. Raises ValueError.
    """
    features, labels, counts = _checked(features, labels)
    n = len(features)
    u, s, _ = np.linalg.svd(features, full_matrices=False)
    sigma = s**2 / max(s[0] ** 2, np.finfo(float).tiny)  # a common scale only moves alpha
    evidences = []
    for label in range(len(counts)):
        y = (labels == label).astype(float)
        x2 = (u.T @ y) ** 2
        rest = max(y @ y - x2.sum(), 0.0)  # what no linear model of these features can explain
        alpha = beta = 1.0
        for _ in range(1000):
            t = alpha / beta
            gamma = (sigma / (sigma + t)).sum()
            m2 = (sigma * x2 / (t + sigma) ** 2).sum()
            res2 = (x2 * (t / (t + sigma)) ** 2).sum() + rest
            alpha, beta = gamma / max(m2, 1e-12), (n - gamma) / max(res2, 1e-12)
            if abs(alpha / beta - t) <= 1e-6 * t:
                break
        # log N(y; 0, I/beta + F F'/alpha): directions without variance add nothing but beta
        variance = 1 / beta + sigma / alpha
        log_det = np.log(variance).sum() + (n - len(sigma)) * np.log(1 / beta)
        distance = (x2 / variance).sum() + rest * beta
        evidences.append(-(n * np.log(2 * np.pi) + log_det + distance) / 2 / n)
    return float(np.mean(evidences))


def h_score(features: np.ndarray, labels: np.ndarray) -> float:
    """H-score: how much of the features' variation lies between classes, tr(cov(f)^-1 cov(E[f|y])).

    features: (n, ...); labels: (n,). Between 0 and classes - 1; higher is better. Y. Bao et al., 2019. With
    fewer images than features the plain score is always near its maximum, so the covariance is shrunk as
    O. Ledoit and M. Wolf, 2004, prescribe (S. Ibrahim et al., 2021, arXiv:2110.06893). Raises ValueError.
    """
    features, labels, counts = _checked(features, labels)
    n, d = features.shape
    centred = features - features.mean(axis=0)
    _, s, v = np.linalg.svd(centred, full_matrices=False)
    variances = s**2 / n
    level = variances.sum() / d
    spread = (variances**2).sum() - d * level**2  # squared distance of the covariance from a multiple of 1
    noise = ((centred**2).sum(axis=1) ** 2).sum() / n**2 - (variances**2).sum() / n
    shrinkage = min(max(noise, 0.0) / spread, 1.0) if spread > 0 else 1.0
    shrunk = (1 - shrinkage) * variances + shrinkage * level
    means = np.stack([centred[labels == label].mean(axis=0) for label in range(len(counts))]) @ v.T
    kept = shrunk > 1e-12 * max(shrunk.max(), np.finfo(float).tiny)
    between = (counts[:, None] / n * means**2).sum(axis=0)
    return float((1 - shrinkage) * (between[kept] / shrunk[kept]).sum())
