"""All tests, and the kernels in which nbval runs the notebooks, run in the reference environment."""

import notebook_regression
import reference

reference.enter()

import helpers  # noqa: E402, F401  after the environment is set, and before any test imports Keras


def pytest_configure(config):
    notebook_regression.compare_figures_too()
