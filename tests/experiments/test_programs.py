"""The recorded programs: they explain themselves, find what is recorded, and what they recorded agrees with itself."""

import shutil
from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.data import ImageSet, balanced_subset, mnist
from records import FOLDER, Records

PROGRAMS = sorted(path.stem for path in FOLDER.parent.parent.glob("experiments/*.py") if "__main__" in path.read_text())


@pytest.mark.parametrize("name", PROGRAMS)
def test_help(monkeypatch, capsys, name):
    monkeypatch.setattr("sys.argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit, match="0"):
        import_module(name).main()
    assert "usage:" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["mnist_full", "mnist_one_change"])
def test_what_is_recorded_is_not_run_again(monkeypatch, tmp_path, name):
    """With the recorded settings no digit is read; a run that is missing would be made."""
    program = import_module(name)
    record = shutil.copy(program.FILE, tmp_path)
    monkeypatch.setattr("sys.argv", [f"{name}.py", "--record", str(record), "--mnist", str(tmp_path / "none")])
    monkeypatch.setattr(program.tf.config.experimental, "enable_op_determinism", lambda: None)
    monkeypatch.setattr(program, "Digits", lambda file: SimpleNamespace(training=60_000, choosing=55_000))
    program.main()
    assert (tmp_path / program.FILE.name).read_bytes() == program.FILE.read_bytes()
    lines = program.FILE.read_text().splitlines(keepends=True)
    (tmp_path / program.FILE.name).write_text("".join(lines[:1] + lines[2:]))
    with pytest.raises(AttributeError):
        program.main()


@pytest.mark.slow
def test_one_change_on_60000_digits(monkeypatch, tmp_path):
    """On few random numbers: every run is made once, its seeds differ, and its wrong digits are counted."""
    program = import_module("mnist_explained")
    monkeypatch.setenv("HELPERS_CACHE", str(tmp_path))
    recipe = {"train": 60, "epochs": 1, "hidden": [4]}
    monkeypatch.setattr(program, "RECIPE", program.RECIPE | recipe)
    last = list(program.RUNS)[2]
    monkeypatch.setattr(program, "RUNS", {last: program.RUNS[last], "40 digits": {"train": 40, "epochs": 2}})
    random = np.random.default_rng(0)
    both = tuple(ImageSet(np.zeros((n, 1, 1, 3), np.uint8), np.arange(n) % 10, ("",) * 10, "", "") for n in (60, 20))
    features = tuple(random.normal(size=(n, 1, 1, 8)).astype("float32") for n in (60, 20))
    digits = SimpleNamespace(both=both, after=lambda block, size: features)
    records = Records(tmp_path / "r.json", "test", "program.py")
    for _ in range(2):
        program.explain(records, digits, (0, 1))
    assert len(records.runs) == 4 and len({run["weights"] for run in records.runs}) == 4
    assert all(run["test_accuracy"] == round(1 - len(run["wrong"]) / 20, 4) for run in records.runs)
    assert not list(tmp_path.glob("training/*"))


@pytest.mark.slow
def test_the_ladder(monkeypatch, tmp_path):
    """On few digits and one pass: recipes are chosen on validation digits, tested with every seed, then combined."""
    program = import_module("mnist_ladder")
    monkeypatch.setenv("HELPERS_CACHE", str(tmp_path))
    rows = {name: program.ROWS[name] for name in ("pixels", "small network")}
    monkeypatch.setattr(program, "ROWS", {name: replace(row, tries=row.tries[:2]) for name, row in rows.items()})
    monkeypatch.setattr(program, "PASSES", {50: 1})
    digits = SimpleNamespace(splits=mnist(28), part=lambda n, seed: balanced_subset(mnist(28).train, n // 10, seed))
    records = Records(tmp_path / "r.json", "test", "program.py")
    for _ in range(2):
        program.climb(records, digits, (50,), tuple(rows), (0, 1, 2))
    tries, tests = records.find(role="try"), records.find(role="test")
    assert len(tries) == 4 and len(tests) == 2 * 3 + 1 and tests[-1]["row"] == "ensemble of three"
    best = max(tries, key=lambda run: run["validation_accuracy"])
    assert tests[-1]["of"] == best["row"] and best["rate"] == tests[-1]["rate"]
    assert all(run["test_accuracy"] == round(1 - len(run["wrong"]) / 500, 4) for run in tests)


def test_the_benchmark_agrees_with_itself():
    runs = {run["measurement"]: run for run in Records(FOLDER / "bench.json", "", "").runs}
    fast, cached, memory = (runs[name] for name in ("to the article's accuracy", "cached features", "memory"))
    article = 9_380 * fast["article_step"] + 1_570 * fast["article_test_step"]
    assert fast["ratio"] == pytest.approx(article / fast["seconds"], rel=0.01) and fast["ratio"] >= 150
    assert fast["test_accuracy"] > fast["target"] == 0.9626
    assert cached["ratio"] == pytest.approx(cached["anew"] / cached["cached"], rel=0.15)
    assert memory["process_mb"] <= 2048 and memory["extraction_mb"] - memory["mb_before"] < 300
