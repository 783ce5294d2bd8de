"""`advise` on data whose scenario is known, and where it must not pretend to know."""

import helpers  # noqa: F401, I001
import numpy as np
import pytest

from helpers import data
from helpers.advice import advise


@pytest.fixture(scope="module")
def digits():
    return data.mnist(32).train


@pytest.fixture(scope="module")
def tiles():
    return data.photo_tiles(32).train


def test_photo_tiles_are_small_and_similar(tiles):
    advice = advise(tiles.images, tiles.labels)
    assert advice.scenario == ("small", "similar")
    assert advice.cut in ("block4_pool", "block5_pool")
    assert "small and similar: replace the output layer" in str(advice)
    assert advice.sure.startswith("sure")
    best = max(mean for _, mean, _, _ in advice.table)
    assert best > max(random for *_, random in advice.table), "the pretraining must be worth something"


def test_digits_are_small_and_dissimilar(digits):
    advice = advise(digits.images, digits.labels)
    assert advice.scenario == ("small", "dissimilar")
    assert advice.cut in ("block2_pool", "block3_pool")


def test_many_digits_are_large(digits):
    images, labels = np.tile(digits.images, (2, 1, 1, 1)), np.tile(digits.labels, 2)
    assert advise(images, labels).scenario == ("large", "dissimilar")


@pytest.mark.parametrize("per_class", [2, 4])
def test_too_few_images(digits, per_class):
    few = data.balanced_subset(digits, per_class)
    advice = advise(few.images, few.labels)
    assert advice.scenario is None and "too few images" in str(advice)


def test_noise_is_not_decided():
    random = np.random.default_rng(0)
    advice = advise(random.integers(0, 255, (100, 32, 32, 3), np.uint8), np.arange(100) % 2)
    assert advice.scenario is None and "look alike" in str(advice)


def test_refuses(digits):
    with pytest.raises(ValueError, match="as many labels"):
        advise(digits.images[:20], digits.labels[:19])
    with pytest.raises(ValueError, match="two of each are the least"):
        advise(digits.images[:20], np.zeros(20, int))
    with pytest.raises(ValueError, match="uint8"):
        advise(digits.images[:20] / 255, digits.labels[:20])
