"""Records of long experiments: nothing is lost, done twice or half written, and each run says how it was made."""

import json
import subprocess
import sys

import pytest
from bad_input import rows

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


@pytest.fixture
def record(tmp_path):
    """The record r.json, as a program opens it."""
    return lambda: Records(tmp_path / "r.json", "test", "/somewhere/program.py")


def test_a_recorded_run_is_not_repeated_and_says_how_it_was_made(tmp_path, record):
    run = record().run(lambda: {"accuracy": 0.5}, seed=1, hidden=(3, 4))
    assert record().run(lambda: 1 / 0, seed=1, hidden=(3, 4)) == json.loads(json.dumps(run))
    assert run["settings"] == ["precision", "seed", "hidden"] and run["precision"] == "float32"
    assert set(run["provenance"]) == {"date", "machine", "versions"} and run["seconds"] >= 0 < run["peak_mb"]
    content = json.loads((tmp_path / "r.json").read_text())
    assert (content["what"], content["program"], len(content["runs"])) == ("test", "program.py", 1)
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"], "nothing is left beside it"


@pytest.mark.parametrize("other", [{"seed": 2}, {"precision": "mixed_bfloat16"}, {"rate": 0.1}])
@pytest.mark.parametrize("first", [True, False])
def test_a_run_with_other_settings_is_not_taken_for_done(record, other, first):
    one, another = ({"seed": 1}, {"seed": 1, **other})[:: 1 if first else -1]
    record().run(lambda: {"accuracy": 0.5}, **one)
    assert record().run(lambda: {"accuracy": 0.7}, **another)["accuracy"] == 0.7
    assert record().run(lambda: 1 / 0, **one)["accuracy"] == 0.5


def test_superseded_and_older_runs_are_kept_as_they_are(tmp_path, record):
    record().run(lambda: {"accuracy": 0.5}, seed=1)
    text = (tmp_path / "r.json").read_text().replace('"machine": "', '"machine": "an older one, ')
    (tmp_path / "r.json").write_text(text.replace('"settings"', '"superseded": "an error", "settings"'))
    older = record().runs
    assert record().find(seed=1) == []
    assert record().run(lambda: {"accuracy": 0.7}, seed=1)["accuracy"] == 0.7
    assert record().runs[:1] == older and len(record().find(seed=1)) == 1


@pytest.mark.slow
def test_two_processes_lose_nothing(tmp_path, record):
    command, folder = [sys.executable, "-c", PROGRAM, str(tmp_path / "r.json")], FOLDER.parents[1] / "experiments"
    both = [subprocess.Popen([*command, number], cwd=folder, stdout=subprocess.DEVNULL) for number in "01"]
    assert [process.wait() for process in both] == [0, 0]
    runs = [(str(run["process"]), run["number"]) for run in record().runs]
    assert sorted(runs) == sorted((process, n) for process in ("0", "1", "either") for n in range(40))


@pytest.mark.parametrize(("content", "sentence"), rows("records"))
def test_a_damaged_record_is_refused(tmp_path, record, content, sentence):
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(FileError, match=f"r.json is not a record of runs .*{sentence}.*move it away"):
        record()


@pytest.mark.parametrize(("measure", "error"), [(lambda: 1 / 0, ZeroDivisionError), (lambda: {"seed": 2}, ValueError)])
def test_a_failing_run_leaves_the_record_alone(tmp_path, record, measure, error):
    record().run(lambda: {"accuracy": 1.0}, seed=0)
    before = (tmp_path / "r.json").read_bytes()
    with pytest.raises(error):
        record().run(measure, seed=1)
    assert (tmp_path / "r.json").read_bytes() == before


@pytest.mark.parametrize("path", sorted(FOLDER.glob("0*.json")), ids=lambda path: path.stem)
def test_recorded_runs_can_be_told_apart(path):
    runs = Records(path, "", "").find()
    assert all({"date", "machine", "versions"} <= set(run["provenance"]) for run in runs)
    settings = [json.dumps({key: run[key] for key in sorted(run["settings"])}) for run in runs]
    assert all(run["peak_mb"] > 0 for run in runs)
    assert len(set(settings)) == len(runs) > 0 and all('"precision"' in text for text in settings)
