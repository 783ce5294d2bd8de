"""Records of long experiments: nothing is done twice, and nothing is half written."""

import json

import pytest
from records import Records

import helpers  # noqa: F401
from helpers.assets import FileError


def test_a_recorded_run_is_not_repeated(tmp_path):
    calls = []
    for _ in range(2):
        records = Records(tmp_path / "r.json", "test")
        run = records.run(lambda: calls.append(1) or {"accuracy": 0.5}, seed=1, n=10)
    assert calls == [1] and run["accuracy"] == 0.5 and run["seed"] == 1
    records.run(lambda: {"accuracy": 0.6}, seed=2, n=10)
    assert [r["accuracy"] for r in records.find(n=10)] == [0.5, 0.6]
    content = json.loads((tmp_path / "r.json").read_text())
    assert content["what"] == "test" and {"date", "machine", "versions"} <= set(content)
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"], "nothing is left beside it"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"runs": {}}', '{"runs": [1]}', '{"what": "x"}'])
def test_a_damaged_record_is_refused_and_kept(tmp_path, content):
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(FileError, match="r.json is not a record of runs.*move it away"):
        Records(tmp_path / "r.json", "test")
    assert (tmp_path / "r.json").read_text() == content


def test_a_failing_run_leaves_the_record_alone(tmp_path):
    records = Records(tmp_path / "r.json", "test")
    records.run(lambda: {"accuracy": 1.0}, seed=0)
    before = (tmp_path / "r.json").read_bytes()
    with pytest.raises(ZeroDivisionError):
        records.run(lambda: {"accuracy": 1 / 0}, seed=1)
    assert (tmp_path / "r.json").read_bytes() == before
