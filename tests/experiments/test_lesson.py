"""What the recorded programs take from a lesson is what its tagged cells define, and nothing else is run."""

import inspect
import json

import pytest

import lesson

CELLS = [
    (["parameters"], "SEED: int = 0\nRATE: float = 0.5\n"),
    ([], "1 / 0"),
    (["imports"], "import math\n"),
    (["lesson", "hide-input"], "FACTOR = 2\n\n\ndef scaled(x):\n    return FACTOR * math.floor(x) + SEED\n"),
    (["lesson"], "def twice(x):\n    return 2 * scaled(x)\n"),
]


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setattr(lesson, "NOTEBOOKS", tmp_path)

    def write(name, cells=CELLS):
        cells = [{"metadata": {"tags": tags}, "source": source.splitlines(keepends=True)} for tags, source in cells]
        (tmp_path / name).write_text(json.dumps({"cells": cells}))

    return write


def test_tagged_cells_run_in_order_with_the_given_parameters(write):
    write("07_x.ipynb")
    assert lesson.load("07").twice(3.7) == 12
    loaded = lesson.load("07_x", SEED=5)
    assert loaded.twice(3.7) == 22 and loaded.RATE == 0.5
    loaded.FACTOR = 10
    assert loaded.scaled(3.7) == 35, "one namespace, as in a kernel"
    assert inspect.getsource(loaded.twice) == CELLS[-1][1]


@pytest.mark.parametrize("arguments", [{"SEEDS": 1}, {"math": 1}])
def test_unknown_parameters_are_refused(write, arguments):
    write("07_x.ipynb")
    with pytest.raises(LookupError, match="no parameter"):
        lesson.load("07", **arguments)


def test_what_is_missing_is_said(write):
    write("07_x.ipynb", CELLS[:3])
    with pytest.raises(LookupError, match="tag 'lesson'"):
        lesson.load("07")
    write("07_y.ipynb")
    with pytest.raises(LookupError, match="2 notebooks"):
        lesson.load("07")
    write("08_x.ipynb", CELLS[2:])
    with pytest.raises(LookupError, match="tag 'parameters'"):
        lesson.load("08", SEED=1)
    with pytest.raises(LookupError, match="0 notebooks"):
        lesson.load("09")
