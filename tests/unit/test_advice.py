"""`advise` on images whose answer is known, and where it must not pretend to know."""

import numpy as np
import pytest

from helpers import data
from helpers.advice import RECIPES, UNKNOWN, advise


@pytest.fixture(scope="module")
def digits():
    return data.mnist(64).train


@pytest.mark.slow
def test_digits_are_different_and_call_for_training(digits):
    advice = advise(digits.images, digits.labels, size=64, max_images=300)
    assert advice.similar is False and advice.recipe == "train everything"
    middle, last, random = (advice.accuracy[f"{s} stage"] for s in ("middle", "last", "random weights, last"))
    assert middle > max(last, random)
    text = str(advice)
    assert text.startswith(f"Recipe: {RECIPES['train everything']}.") and text.endswith(UNKNOWN)
    assert "4,000 images of 10 classes, 400 in the smallest; 300 were looked at" in text


@pytest.mark.slow
def test_photo_tiles_are_not_different():
    tiles = data.photo_tiles(64).train
    advice = advise(tiles.images, tiles.labels, size=64, max_images=300)
    assert advice.similar is not False
    assert advice.accuracy["last stage"] > advice.accuracy["random weights, last stage"] + 0.1


@pytest.mark.parametrize("per_class", [1, 4])
def test_too_few_images(digits, per_class):
    few = data.balanced_subset(digits, per_class)
    advice = advise(few.images, few.labels, size=64)
    assert (advice.recipe, advice.similar, advice.accuracy) == ("probe", None, {}) and "too few" in str(advice)


def test_noise_is_not_told_apart():
    random = np.random.default_rng(0)
    advice = advise(random.integers(0, 255, (100, 64, 64, 3), np.uint8), np.arange(100) % 2, size=64)
    assert advice.similar is None and "not told apart" in str(advice) and max(advice.accuracy.values()) < 0.7
