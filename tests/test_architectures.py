"""GoogLeNet, which Keras does not bring along, is the network of its paper."""

import helpers  # noqa: F401  must come before Keras

# isort: split

import keras
import numpy as np
import pytest

from helpers import architectures, costs

# Output channels and parameters (in K of 1,024) of every module: C. Szegedy et al., 2014, table 1.
OUTPUTS = {"3a": 256, "3b": 480, "4a": 512, "4b": 512, "4c": 512, "4d": 528, "4e": 832, "5a": 832, "5b": 1024}
SIDES = {"3": 28, "4": 14, "5": 7}
KILOS = {"3a": 159, "3b": 380, "4a": 364, "4b": 437, "4c": 463, "4d": 580, "4e": 840, "5a": 1072, "5b": 1388}


@pytest.fixture(scope="module")
def googlenet():
    with costs.blueprint():
        return architectures.googlenet()


def test_size(googlenet):
    assert googlenet.count_params() == 6_998_552
    assert costs.multiply_adds(googlenet) == 1_582_671_872
    assert costs.depth(googlenet) == 22


def test_modules_as_in_the_paper(googlenet):
    for name, channels in OUTPUTS.items():
        side = SIDES[name[0]]
        assert googlenet.get_layer(f"inception_{name}").output.shape[1:] == (side, side, channels)


def test_parameters_of_the_modules(googlenet):
    """Within 10 % of the paper's rounded column, and within 3 % in sum."""
    counted = {name: 0 for name in KILOS}
    for cost in costs.layer_costs(googlenet):
        if cost.name.startswith("inception_"):
            counted[cost.name.split("_")[1]] += cost.parameters
    for name, kilos in KILOS.items():
        assert counted[name] == pytest.approx(kilos * 1024, rel=0.10), name
    assert sum(counted.values()) == pytest.approx(sum(KILOS.values()) * 1024, rel=0.03)


def test_it_runs():
    keras.utils.set_random_seed(0)
    model = architectures.googlenet(size=32, classes=10)
    images = np.random.default_rng(0).uniform(size=(2, 32, 32, 3))
    probabilities = np.asarray(model(images))
    assert probabilities.shape == (2, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_too_small_a_picture_is_refused():
    with pytest.raises(ValueError, match="size 31 is too small"):
        architectures.googlenet(size=31)
