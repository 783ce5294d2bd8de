"""Records of long experiments: nothing is lost, done twice or half written, and each run says how it was made."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import helpers  # noqa: F401
from helpers.assets import FileError
from records import FOLDER, Records

PROGRAM = """
import sys, helpers
from records import Records
records = Records(sys.argv[1], "test", "program.py")
for number in range(40):
    records.run(lambda: {"accuracy": number}, process=int(sys.argv[2]), number=number)
    records.run(lambda: {"accuracy": number}, process="either", number=number)
"""


def record(path):
    return Records(path / "r.json", "test", "/somewhere/program.py")


def test_a_recorded_run_is_not_repeated(tmp_path):
    calls = []
    for _ in range(2):
        run = record(tmp_path).run(lambda: calls.append(1) or {"accuracy": 0.5}, seed=1, hidden=(3, 4))
    assert calls == [1] and run["accuracy"] == 0.5 and run["seed"] == 1
    record(tmp_path).run(lambda: {"accuracy": 0.6}, seed=2, hidden=(3, 4))
    assert [r["accuracy"] for r in record(tmp_path).find(hidden=(3, 4))] == [0.5, 0.6]
    content = json.loads((tmp_path / "r.json").read_text())
    assert (content["what"], content["program"], len(content["runs"])) == ("test", "program.py", 2)
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"], "nothing is left beside it"


def test_a_run_says_how_it_was_made(tmp_path):
    run = record(tmp_path).run(lambda: {"accuracy": 0.5}, seed=1)
    assert run["settings"] == ["precision", "seed"] and run["precision"] == "float32"
    assert {"date", "machine", "versions"} == set(run["provenance"]) and run["seconds"] >= 0 < run["peak_mb"]
    assert set(run["provenance"]["versions"]) == {"python", "tensorflow", "keras"}


@pytest.mark.parametrize("other", [{"seed": 2}, {"precision": "mixed_bfloat16"}, {"rate": 0.1}])
def test_a_run_with_other_settings_is_not_taken_for_done(tmp_path, other):
    one, another = {"seed": 1}, {"seed": 1, **other}
    for name, (first, second) in enumerate(((one, another), (another, one))):
        records = Records(tmp_path / f"{name}.json", "test", "program.py")
        records.run(lambda: {"accuracy": 0.5}, **first)
        assert records.run(lambda: {"accuracy": 0.7}, **second)["accuracy"] == 0.7
        assert records.run(lambda: 1 / 0, **first)["accuracy"] == 0.5


def test_a_superseded_run_is_kept_and_not_taken_for_done(tmp_path):
    record(tmp_path).run(lambda: {"accuracy": 0.5}, seed=1)
    text = (tmp_path / "r.json").read_text()
    (tmp_path / "r.json").write_text(text.replace('"settings"', '"superseded": "an error", "settings"'))
    assert record(tmp_path).find(seed=1) == []
    assert record(tmp_path).run(lambda: {"accuracy": 0.7}, seed=1)["accuracy"] == 0.7
    assert [run["accuracy"] for run in record(tmp_path).runs] == [0.5, 0.7]


def test_provenance_of_older_runs_is_kept(tmp_path):
    record(tmp_path).run(lambda: {"accuracy": 0.5}, seed=1)
    text = (tmp_path / "r.json").read_text().replace('"machine": "', '"machine": "an older one, ')
    (tmp_path / "r.json").write_text(text)
    record(tmp_path).run(lambda: {"accuracy": 0.5}, seed=2)
    assert ["older" in run["provenance"]["machine"] for run in record(tmp_path).runs] == [True, False]


def test_two_processes_lose_nothing(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "r.json")]
    paths = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[2] / "experiments")]
    environment = {"PYTHONPATH": ":".join(paths), "CUDA_VISIBLE_DEVICES": "-1"}
    both = [subprocess.Popen([*command, str(number)], env=environment, stdout=subprocess.DEVNULL) for number in (0, 1)]
    assert [process.wait() for process in both] == [0, 0]
    runs = [(run["process"], run["number"]) for run in record(tmp_path).runs]
    assert sorted(runs, key=str) == sorted({(p, n) for p in (0, 1, "either") for n in range(40)}, key=str)


@pytest.mark.parametrize("content", ["", "[]", '{"runs": {}}', '{"runs": [1]}', '{"runs": [{"seed": 1}]}'])
def test_a_damaged_record_is_refused_and_kept(tmp_path, content):
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(FileError, match="r.json is not a record of runs.*move it away"):
        record(tmp_path)
    assert (tmp_path / "r.json").read_text() == content


@pytest.mark.parametrize(("measure", "error"), [(lambda: 1 / 0, ZeroDivisionError), (lambda: {"seed": 2}, ValueError)])
def test_a_failing_run_leaves_the_record_alone(tmp_path, measure, error):
    record(tmp_path).run(lambda: {"accuracy": 1.0}, seed=0)
    before = (tmp_path / "r.json").read_bytes()
    with pytest.raises(error):
        record(tmp_path).run(measure, seed=1)
    assert (tmp_path / "r.json").read_bytes() == before


@pytest.mark.parametrize("name", ["01_degradation", "03_matrix", "04_full_mnist", "04_one_change"])
def test_recorded_runs_can_be_told_apart(name):
    runs = [run for run in Records(FOLDER / f"{name}.json", "", "").runs if "superseded" not in run]
    assert all({"date", "machine", "versions"} <= set(run["provenance"]) for run in runs)
    settings = [json.dumps({key: run[key] for key in sorted(run["settings"])}) for run in runs]
    assert len(set(settings)) == len(runs) > 10 and all('"precision"' in text for text in settings)
