"""LogME and H-score against values computed another way, and against what they are for."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from sklearn.covariance import ledoit_wolf

from experiments import lesson


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

    options = {"xatol": 1e-6, "fatol": 1e-9}
    return -min(minimize(negative, x, method="Nelder-Mead", options=options).fun for x in ([0, 0], [3, 3], [5, 1]))


@pytest.mark.parametrize(("n", "d"), [(60, 8), (30, 100)])
def test_both_scores_are_what_their_definitions_say(scores, n, d):
    features, labels = blobs(n, d)
    evidence = np.mean([best_evidence(features, (labels == c).astype(float)) / n for c in range(3)])
    assert scores["logme"](features, labels) == pytest.approx(evidence, abs=1e-5)
    covariance, shrinkage = ledoit_wolf(features)
    means = np.stack([features[labels == c].mean(0) for c in range(3)]) - features.mean(0)
    between = sum((labels == c).mean() * np.outer(means[c], means[c]) for c in range(3))
    trace = np.trace(np.linalg.inv(covariance) @ between)
    assert scores["h_score"](features, labels) == pytest.approx((1 - shrinkage) * trace, rel=1e-9)


@pytest.mark.parametrize("name", ["logme", "h_score"])
def test_prefers_features_that_tell_classes_apart(scores, name):
    score = scores[name]
    features, labels = blobs(90, 20)
    shuffled = np.random.default_rng(0).permutation(labels)
    assert score(features, labels) > score(features, shuffled)
    assert score(features, labels) == pytest.approx(score(1000 * features, labels), rel=1e-5), "scale must not matter"
    assert score(features.reshape(90, 4, 5), labels) == score(features, labels), "feature maps are flattened"
