"""GoogLeNet, which notebook 01 builds because Keras does not bring it along, is the network of its paper."""

import helpers  # noqa: F401  must come before Keras

# isort: split

import keras
import numpy as np
import pytest

from helpers import costs

NAMES = ("inception_module", "GOOGLENET_MODULES", "googlenet")

# Output channels and parameters (in K of 1,024) of every module: C. Szegedy et al., 2014, table 1.
OUTPUTS = {"3a": 256, "3b": 480, "4a": 512, "4b": 512, "4c": 512, "4d": 528, "4e": 832, "5a": 832, "5b": 1024}
SIDES = {"3": 28, "4": 14, "5": 7}
KILOS = {"3a": 159, "3b": 380, "4a": 364, "4b": 437, "4c": 463, "4d": 580, "4e": 840, "5a": 1072, "5b": 1388}


@pytest.fixture(scope="module")
def defined(lesson):
    return lesson("01", *NAMES)


@pytest.fixture(scope="module")
def googlenet(defined):
    with costs.blueprint():
        return defined.googlenet()


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


@pytest.mark.parametrize("bottleneck", [True, False])
def test_a_module_joins_its_four_branches(defined, bottleneck):
    """Each branch of a module that runs is what its layers, called one after the other, make of the input."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 5))
    module = keras.Model(inputs, defined.inception_module(inputs, (1, 2, 3, 4, 5, 6), "m", bottleneck))
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 5)).astype("float32")
    before = ["3×3_bottleneck"] * bottleneck, ["5×5_bottleneck"] * bottleneck
    branches = []
    for way in (["1×1"], [*before[0], "3×3"], [*before[1], "5×5"], ["pool", "pool_1×1"]):
        maps = x
        for part in way:
            maps = module.get_layer(f"m_{part}")(maps)
        branches.append(maps)
    assert [branch.shape[-1] for branch in branches] == [1, 3, 5, 6]
    np.testing.assert_allclose(module(x), np.concatenate(branches, axis=-1), rtol=1e-5, atol=1e-6)


def test_it_runs(defined):
    keras.utils.set_random_seed(0)
    images = np.random.default_rng(0).uniform(size=(2, 224, 224, 3))
    probabilities = np.asarray(defined.googlenet()(images))
    assert probabilities.shape == (2, 1000)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_lesson_and_solution_define_the_same(lesson_and_solution):
    in_lesson, in_solutions = lesson_and_solution("01", *NAMES)
    assert in_lesson == in_solutions
