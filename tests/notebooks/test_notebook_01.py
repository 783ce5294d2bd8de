"""Notebook 01: its parameters are checked, its records are complete, and its prose says what they bear out."""

import json
import math
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from bad_input import rows
from scipy.stats import t

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOK = nbformat.read(FOLDER / "01_cnn_architectures.ipynb", as_version=4)
RESIDUAL = json.loads((FOLDER / "recorded/01_residual.json").read_text(encoding="utf-8"))["runs"]
PROSE = " ".join(" ".join(c.source for c in NOTEBOOK.cells if c.cell_type == "markdown").split())
USUAL = {"experiment": "training", "depth": 32, "batchnorm": True, "gamma": 1.0, "optimizer": "SGD", "rate": 0.05}
ADAM = {"optimizer": "Adam", "rate": 0.002}


def printed(text: str) -> str:
    """What the one code cell that contains `text` printed."""
    (cell,) = [c for c in NOTEBOOK.cells if c.cell_type == "code" and text in c.source]
    return "".join(output.get("text", "") for output in cell.outputs)


# ---- what the prose says of the recorded runs ---------------------------------------------------


def errors(runs, shortcut, changes):
    wanted = USUAL | {"epochs": 5} | changes | {"shortcut": shortcut}
    return {run["seed"]: run["training_error"] for run in runs if wanted.items() <= run.items()}


def verdict(one: dict, other: dict) -> str:
    """ "more", "fewer" or "unclear", by the 95 % interval of the mean of the pairs."""
    pairs = [one[seed] - other[seed] for seed in one if seed in other]
    half = t.ppf(0.975, len(pairs) - 1) * np.std(pairs, ddof=1) / math.sqrt(len(pairs))
    return "more" if np.mean(pairs) > half else "fewer" if np.mean(pairs) < -half else "unclear"


def readout(runs, shortcut, batchnorm=True):
    kind = {"experiment": "before training", "shortcut": shortcut, "batchnorm": batchnorm, "gamma": 1.0}
    return np.mean([run["readout"] for run in runs if kind.items() <= run.items()], axis=0)


def faults(runs: list[dict], prose: str = PROSE) -> list[str]:
    """Statements of the page that these runs do not bear out, or that it does not make."""
    plain, residual = errors(runs, False, {}), errors(runs, True, {})
    zero = errors(runs, True, {"gamma": 0.0})
    means = f"{np.mean(list(plain.values())):.1f} % against {np.mean(list(residual.values())):.1f} %"
    in_every_seed = len(plain) >= 5 and all(plain[seed] > residual[seed] for seed in plain)
    worse = in_every_seed and verdict(plain, residual) == "more"
    statements = {
        "the plain network makes more errors on its own training digits, in every seed": worse,
        means: True,
        "Starting as the identity is not what helped here": len(zero) >= 5 and verdict(zero, residual) == "more",
        "were slow, not stuck": verdict(errors(runs, False, {"epochs": 30}), residual) != "more",
        "the digit fades until nothing of it can be read out linearly": readout(runs, False)[-1] < 0.1,
        "more than half of it is still there after sixteen blocks": readout(runs, True)[-1] > 0.5,
        "Without BatchNorm the plain network keeps more of the digit than with it": readout(runs, False, False)[-1]
        > readout(runs, False)[-1],
        "and the residual one less": readout(runs, True, False)[-1] < readout(runs, True)[-1],
    }
    return [statement for statement, true in statements.items() if not true or statement not in prose]


def test_the_prose_says_what_the_recorded_runs_bear_out():
    assert faults(RESIDUAL) == []


@pytest.mark.parametrize(("given", "sentence"), rows("runs of notebook 01"))
def test_other_runs_would_be_noticed(given, sentence):
    kind = {key: value for key, value in given.items() if key != "training_error"}
    tampered = [run | given if kind.items() <= run.items() else run for run in RESIDUAL]
    assert any(re.search(sentence, fault) for fault in faults(tampered))
    assert faults(RESIDUAL, PROSE.replace("is not what helped", "is what helped"))


def test_the_page_prints_what_is_recorded():
    """Lines of the two tables, worked out here from the files."""
    lines = printed("recorded_errors(shortcut, changes, measure").splitlines()
    for name, one, other in [
        ("plain 32 against residual 32", (False, {}), (True, {})),
        ("residual 32, gamma 0, against gamma 1", (True, {"gamma": 0.0}), (True, {})),
    ]:
        first, second = errors(RESIDUAL, *one), errors(RESIDUAL, *other)
        (line,) = [line for line in lines if line.startswith(f"{name} ")]
        numbers = re.findall(r"[+-]?\d+\.\d", line.removeprefix(name))
        pairs = [first[seed] - second[seed] for seed in first]
        expected = [np.mean(list(first.values())), np.mean(pairs)]
        assert [float(numbers[0]), float(numbers[3])] == pytest.approx(expected, abs=0.051)
        assert line.endswith(f"{len(pairs)} seeds")


# ---- the ledger ---------------------------------------------------------------------------------

# Millions of parameters as keras.io/api/applications prints them, and those of the other papers.
PARAMETERS = {"AlexNet": 61.0, "VGG16": 138.4, "VGG19": 143.7, "GoogLeNet": 7.0, "InceptionV3": 23.9, "ResNet50": 25.6}
PARAMETERS |= {"ResNet152": 60.4, "Xception": 22.9, "MobileNet": 4.3, "EfficientNet-Lite0": 4.7}


def test_the_ledger_has_ten_networks_of_the_published_size():
    rows = [line.split() for line in printed("ledger = {}").splitlines()[1:11]]
    assert {row[0]: round(int(row[4].replace(",", "")) / 1e6, 1) for row in rows} == PARAMETERS
    assert rows[1][7] == "15,087,080"
