"""What the recorded programs take from a lesson is what its tagged cells define, and nothing else is run."""

import inspect
import json
from pathlib import Path

import pytest
import yaml
from bad_input import rows

import lesson

CELLS = yaml.safe_load(Path(__file__).with_name("small_lesson.yml").read_text(encoding="utf-8"))


@pytest.fixture
def written(tmp_path, monkeypatch):
    monkeypatch.setattr(lesson, "NOTEBOOKS", tmp_path)
    for name, given in (("07_x", CELLS), ("08_x", CELLS[:3]), ("09_x", CELLS[2:]), ("10_x", CELLS), ("10_y", CELLS)):
        cells = [{"metadata": {"tags": tags}, "source": source.splitlines(keepends=True)} for tags, source in given]
        (tmp_path / f"{name}.ipynb").write_text(json.dumps({"cells": cells}))


def test_tagged_cells_run_in_order_with_the_given_parameters(written):
    assert lesson.load("07").twice(3.7) == 12
    loaded = lesson.load("07_x", SEED=5)
    assert loaded.twice(3.7) == 22 and loaded.RATE == 0.5
    loaded.FACTOR = 10
    assert loaded.scaled(3.7) == 35, "one namespace, as in a kernel"
    assert inspect.getsource(loaded.twice) == CELLS[-1][1]


@pytest.mark.parametrize(("given", "sentence"), rows("lessons"))
def test_what_is_missing_is_said(written, given, sentence):
    with pytest.raises(LookupError, match=sentence):
        lesson.load(given["notebook"], **given["parameters"])
