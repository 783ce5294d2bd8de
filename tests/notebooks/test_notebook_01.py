"""Notebook 01: what its prose says of the degradation experiment is what the recorded runs say."""

import ast
import copy
import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
NOTEBOOK = nbformat.read(NOTEBOOKS / "01_cnn_architectures.ipynb", as_version=4)
RECORDED = json.loads((NOTEBOOKS / "recorded" / "01_degradation.json").read_text(encoding="utf-8"))
FULL = yaml.safe_load((NOTEBOOKS / "profiles" / "full" / "01_cnn_architectures.yaml").read_text(encoding="utf-8"))
MEASURES = ("training_error", "validation_error")


def cell(*words):
    """The one code cell that contains all of these words."""
    found = [c for c in NOTEBOOK.cells if c.cell_type == "code" and all(word in c.source for word in words)]
    assert len(found) == 1, f"{len(found)} cells contain {words}"
    return found[0]


def prose(notebook=NOTEBOOK) -> str:
    return " ".join(" ".join(c.source for c in notebook.cells if c.cell_type == "markdown").split())


def text_of(one_cell) -> str:
    return "".join(output.get("text", "") for output in one_cell.outputs)


@pytest.fixture(scope="module")
def functions():
    """The notebook's own functions that judge runs."""
    namespace = {"np": np}
    exec(cell("def verdict(").source, namespace)
    return namespace


# ---- the verdict --------------------------------------------------------------------------------


def runs_with(plain, residual, depth=8):
    """Two networks whose training errors, seed by seed, are these (in percent)."""
    return [
        {"depth": depth, "kind": kind, "seed": seed, "training_error": error / 100}
        for kind, errors in (("plain", plain), ("residual", residual))
        for seed, error in enumerate(errors)
    ]


@pytest.mark.parametrize(
    ("plain", "residual", "mean", "spread", "words"),
    [
        ([30, 31, 32], [10, 11, 12], 20, 0, "clearly worse"),
        ([10, 11, 12], [30, 31, 32], -20, 0, "clearly better"),
        ([10, 20, 30], [11, 12, 13], 8, 9, "not clear"),
        ([11, 13, 15], [10, 10, 10], 3, 2, "not clear"),  # below twice its spread
        ([13, 15, 17], [10, 10, 10], 5, 2, "clearly worse"),  # above
    ],
)
def test_verdict_weighs_the_mean_difference_against_its_spread(functions, plain, residual, mean, spread, words):
    runs = runs_with(plain, residual)
    for order in (runs, runs[::-1]):  # seeds are paired whatever the order of the runs
        found = functions["verdict"](order, (8, "plain"), (8, "residual"), "training_error")
        assert found[2] == words
        np.testing.assert_allclose(found[:2], (mean, spread), atol=1e-9)


# ---- prose, outputs and recorded runs -----------------------------------------------------------


def faults(functions, recorded, text) -> list[str]:
    """Statements of the prose that the recorded runs do not bear out."""
    runs, found = recorded["runs"], []

    def difference(one, other, measure):
        mean, spread, words = functions["verdict"](runs, one, other, measure)
        return f"{abs(mean):.1f} ± {spread:.1f} points", words

    def mean_error(*network):
        return f"{functions['errors'](runs, *network, 'training_error').mean():.1f} %"

    at_32, words_32 = difference((32, "plain"), (32, "residual"), "training_error")
    at_44, words_44 = difference((44, "plain"), (44, "residual"), "training_error")
    held_out, words_held_out = difference((44, "plain"), (44, "residual"), "validation_error")
    depth_for_residual = difference((44, "residual"), (8, "residual"), "validation_error")[1]
    largest = max(functions["errors"](runs, d, "residual", "training_error").mean() for d in (8, 20, 32, 44))
    statements = {
        f"At depth 32 they lag by {at_32}, which is not more than twice the spread": words_32 == "not clear",
        f"a training error of {mean_error(44, 'plain')}, against {mean_error(44, 'residual')} with shortcuts": True,
        f"a difference of {at_44}, which is clear": words_44 == "clearly worse",
        f"Validation shows the same, {held_out}": words_held_out == "clearly worse",
        "in validation, residual 44 is no better than residual 8": depth_for_residual == "not clear",
        f"No residual network of any depth is above {largest:.1f} %": True,
    }
    for statement, true in statements.items():
        if statement not in text:
            found.append(f"the prose does not say: {statement}")
        if not true:
            found.append(f"the runs do not bear out: {statement}")
    for depth in (8, 20):
        if "worse" in difference((depth, "plain"), (depth, "residual"), "training_error")[1]:
            found.append(f"plain is worse at depth {depth} already")
    return found


def test_prose_agrees_with_the_recorded_runs(functions):
    assert faults(functions, RECORDED, prose()) == []


@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_a_tampered_result_is_seen(functions, kind):
    tampered = copy.deepcopy(RECORDED)
    run = next(r for r in tampered["runs"] if (r["depth"], r["kind"]) == (44, kind))
    run["training_error"] = 0.1
    assert faults(functions, tampered, prose())


def test_a_tampered_verdict_is_seen(functions):
    """The runs say that the deep plain network is no longer worse; every number of it is changed."""
    tampered = copy.deepcopy(RECORDED)
    for r in tampered["runs"]:
        r |= {measure: 0.01 for measure in MEASURES}
    assert any("do not bear out" in fault for fault in faults(functions, tampered, prose()))


def test_tampered_prose_is_seen(functions):
    assert faults(functions, RECORDED, prose().replace("27.8 ± 12.8", "17.8 ± 12.8"))
    assert faults(functions, RECORDED, prose().replace("which is clear", "which is not clear"))


def test_the_page_prints_what_is_recorded(functions):
    """Table and verdicts below the recorded run, recomputed here from the file."""
    printed = text_of(cell("recorded/01_degradation.json"))
    for network in {(r["depth"], r["kind"]) for r in RECORDED["runs"]}:
        errors = [functions["errors"](RECORDED["runs"], *network, measure) for measure in MEASURES]
        line = next(line for line in printed.splitlines() if line.startswith(f"depth {network[0]:2}, {network[1]} "))
        numbers = [float(n) for n in re.findall(r"\d+\.\d", line)]
        expected = [round(float(v), 1) for e in errors for v in (e.mean(), e.std(ddof=1))]
        np.testing.assert_allclose(numbers, expected, atol=0.051)
    line = next(line for line in printed.splitlines() if line.startswith("plain 44 − residual 44"))
    assert line.count("clearly worse") == 2


# ---- the recorded file --------------------------------------------------------------------------


def test_recorded_runs_are_those_of_the_full_profile():
    runs = RECORDED["runs"]
    expected = {(d, k, s) for d in FULL["DEPTHS"] for k in ("plain", "residual") for s in range(FULL["SEEDS"])}
    assert sorted((r["depth"], r["kind"], r["seed"]) for r in runs) == sorted(expected)
    assert FULL["SEEDS"] >= 3
    for r in runs:
        assert (r["images"], r["epochs"]) == (FULL["IMAGES"], FULL["EPOCHS"])
        assert all(len(curve) == r["epochs"] for curve in r["curves"].values())
        assert set(r["curves"]) == {"accuracy", "loss", "val_accuracy", "val_loss"}
        # the error at the end is that of the last epoch's weights
        assert r["validation_error"] == pytest.approx(1 - r["curves"]["val_accuracy"][-1], abs=2e-4)
    assert {"what", "made_by", "machine", "versions", "date"} <= set(RECORDED)


def continued(tmp_path, there, images=1500):
    """Run the notebook's loop, without training, over a file that holds `there`; (file's runs, seeds trained)."""
    results, trained = tmp_path / "results.json", []
    results.write_text(json.dumps({"runs": there}))

    def run(model, fresh, depth, kind, seed):
        trained.append((depth, kind, seed))
        assert len(json.loads(results.read_text())["runs"]) >= len(trained) - 1, "finished runs are not in the file"
        return {"depth": depth, "kind": kind, "seed": seed, "images": images, "epochs": 4}

    class Nothing:
        def __getattr__(self, name):
            return lambda *args, **kwargs: []

    names = {"RESULTS": str(results), "IMAGES": images, "EPOCHS": 4, "DEPTHS": [8, 32], "SEEDS": 2}
    namespace = names | {"run": run, "prepare": lambda depth, kind: (None, None), "print": lambda *args: None}
    exec("import itertools, json, os, platform, time\nfrom pathlib import Path", namespace)
    namespace |= {"keras": Nothing(), "tf": Nothing()}
    namespace["tf"].__version__ = namespace["keras"].__version__ = "0"
    namespace["tf"].config = namespace["keras"].utils = Nothing()
    exec(cell("def save(runs)").source, namespace)
    exec(cell("for depth, kind in itertools.product(DEPTHS").source, namespace)
    assert list(tmp_path.iterdir()) == [results], "something half written is left"
    return json.loads(results.read_text())["runs"], trained


def test_an_interrupted_experiment_goes_on(tmp_path):
    done = [
        {"depth": 8, "kind": "plain", "seed": seed, "images": 1500, "epochs": 4, "mark": "kept"} for seed in (0, 1)
    ] + [{"depth": 8, "kind": "residual", "seed": 1, "images": 1500, "epochs": 4, "mark": "kept"}]
    runs, trained = continued(tmp_path, done)
    assert trained == [(8, "residual", 0), *((32, kind, seed) for kind in ("plain", "residual") for seed in (0, 1))]
    assert len(runs) == 8 and sum("mark" in r for r in runs) == 3


def test_runs_of_other_settings_are_not_taken_over(tmp_path):
    other = [{"depth": 8, "kind": "plain", "seed": 0, "images": 4000, "epochs": 10}]
    _, trained = continued(tmp_path, other)
    assert len(trained) == 8


# ---- parameters ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("SEED", -1, "SEED = -1: a whole number from 0"),
        ("DEPTHS", [], "at least two depths"),
        ("DEPTHS", [8], "at least two depths"),
        ("DEPTHS", [32, 8], "the shallowest first"),
        ("DEPTHS", [8, 8], "each once"),
        ("DEPTHS", [8, 33], "even numbers from 4 to 110"),
        ("DEPTHS", [2, 8], "even numbers from 4 to 110"),
        ("DEPTHS", [8, 112], "even numbers from 4 to 110"),
        ("IMAGES", 90, "IMAGES = 90: 100 to 4000 in tens"),
        ("IMAGES", 1505, "IMAGES = 1505: 100 to 4000 in tens"),
        ("IMAGES", 4010, "IMAGES = 4010: 100 to 4000 in tens"),
        ("EPOCHS", 0, "EPOCHS = 0: 1 to 100 passes"),
        ("EPOCHS", 101, "EPOCHS = 101: 1 to 100 passes"),
        ("SEEDS", 1, "SEEDS = 1: 2 to 20 runs"),
        ("SEEDS", 21, "SEEDS = 21: 2 to 20 runs"),
    ],
)
def test_parameters_out_of_range_give_a_sentence(name, value, sentence):
    parameters, check = (
        [c for c in NOTEBOOK.cells if tag in c.metadata.get("tags", [])] for tag in ("parameters", "check")
    )
    namespace = {}
    exec(parameters[0].source, namespace)
    exec(check[0].source, dict(namespace))  # the defaults pass
    with pytest.raises(ValueError, match=re.escape(sentence)):
        exec(check[0].source, namespace | {name: value})


# ---- the ledger ---------------------------------------------------------------------------------

# Parameters as keras.io/api/applications prints them, in millions, and the AlexNet and Lite0 of their papers.
PARAMETERS = {
    **{"AlexNet": 61.0, "VGG16": 138.4, "VGG19": 143.7, "GoogLeNet": 7.0, "InceptionV3": 23.9, "ResNet50": 25.6},
    **{"ResNet152": 60.4, "Xception": 22.9, "MobileNet": 4.3, "EfficientNet-Lite0": 4.7},
}


def test_the_ledger_has_ten_networks_of_the_published_size():
    printed = text_of(cell("multiply-adds in millions"))
    source = cell("assert ledger == exact").source
    exact = ast.literal_eval(source[source.index("{") : source.index("}") + 1])
    assert list(exact) == list(PARAMETERS)
    for name, (size, depth, parameters, arithmetic) in exact.items():
        assert round(parameters / 1e6, 1) == PARAMETERS[name]
        (line,) = [line for line in printed.splitlines() if line.startswith(f"{name} ")]
        assert line.split()[2:5] == [str(size), str(depth), f"{parameters:,}"]
        assert f"{arithmetic / 1e6:,.0f}" in line
