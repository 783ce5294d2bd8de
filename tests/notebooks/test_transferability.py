"""LogME and H-score against values computed another way, and against what they are for."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from sklearn.covariance import ledoit_wolf

from experiments import lesson

SCORES = ("logme", "h_score")


@pytest.fixture(scope="module")
def scores():
    """The functions of notebook 03's solutions, by name."""
    return vars(lesson.load("solutions/03"))


def blobs(n, d, seed=1):
    """Features whose first two columns tell three classes apart, the others being noise."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, n)
    features = random.normal(size=(n, d))
    features[:, 0] += 2 * labels
    features[:, 1] -= labels
    return features, labels


def best_evidence(features, target):
    """The greatest log evidence over alpha and beta, from the density of the target itself."""
    n = len(target)

    def negative(logs):
        covariance = np.exp(-logs[1]) * np.eye(n) + np.exp(-logs[0]) * features @ features.T
        return -multivariate_normal.logpdf(target, np.zeros(n), covariance, allow_singular=True)

    options = {"maxiter": 4000, "xatol": 1e-6, "fatol": 1e-9}
    starts = ([0, 0], [3, 3], [5, 1])
    return -min(minimize(negative, x, method="Nelder-Mead", options=options).fun for x in starts)


@pytest.mark.parametrize(("n", "d"), [(60, 8), (30, 100)])
def test_logme_is_the_maximal_evidence(scores, n, d):
    features, labels = blobs(n, d)
    expected = np.mean([best_evidence(features, (labels == c).astype(float)) / n for c in range(3)])
    assert scores["logme"](features, labels) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("n", "d"), [(60, 8), (30, 100)])
def test_h_score_is_the_trace_with_the_shrunk_covariance(scores, n, d):
    features, labels = blobs(n, d)
    covariance, shrinkage = ledoit_wolf(features)
    means = np.stack([features[labels == c].mean(0) for c in range(3)]) - features.mean(0)
    between = sum((labels == c).mean() * np.outer(means[c], means[c]) for c in range(3))
    expected = (1 - shrinkage) * np.trace(np.linalg.inv(covariance) @ between)
    assert scores["h_score"](features, labels) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", SCORES)
def test_prefers_features_that_tell_classes_apart(scores, name):
    score = scores[name]
    features, labels = blobs(90, 20)
    shuffled = np.random.default_rng(0).permutation(labels)
    assert score(features, labels) > score(features, shuffled)
    assert score(features, labels) == pytest.approx(score(1000 * features, labels), rel=1e-5), "scale must not matter"
    assert score(features.reshape(90, 4, 5), labels) == score(features, labels), "feature maps are flattened"
