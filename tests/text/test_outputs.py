"""The committed outputs: how they are made, and that a run which differs from them fails."""

import os
import subprocess
import sys

import nbformat
import pytest
import reference
from nbformat import v4

TESTS = reference.REPOSITORY / "tests"
PRINT = """import os
print('accuracy 0.900', os.environ['TF_NUM_INTRAOP_THREADS'], 'reference-' in os.environ['KERAS_HOME'])"""
DRAW = "import matplotlib.pyplot as plt\nplt.plot([1, 2, 3])\nplt.show()"
FOLDED = {"tags": ["hide-input"], "jupyter": {"source_hidden": True}}


@pytest.mark.slow
def test_outputs_are_made_clean_and_compared(tmp_path):
    good, failing = tmp_path / "01_good.ipynb", tmp_path / "02_failing.ipynb"
    cells = [v4.new_code_cell(PRINT, metadata=FOLDED), v4.new_code_cell(DRAW, metadata={"collapsed": True})]
    nbformat.write(v4.new_notebook(cells=cells, metadata={"papermill": {}}), good)
    nbformat.write(v4.new_notebook(cells=[v4.new_code_cell("1 / 0")]), failing)
    before = failing.read_bytes()
    command = [sys.executable, TESTS / "refresh_outputs.py", good, failing]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1 and "left as it was: ZeroDivisionError" in result.stdout
    assert failing.read_bytes() == before and set(tmp_path.iterdir()) == {good, failing}
    notebook = nbformat.read(good, as_version=4)
    assert [dict(cell.metadata) for cell in notebook.cells] == [FOLDED, {}]
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert set(notebook.metadata.language_info) == {"name"}
    assert notebook.cells[0].outputs[0].text == "accuracy 0.900 2 True\n"

    # nbval with this folder's conftest, as `make test` runs it, on the good notebook and on two that changed since
    failing.unlink()
    text = good.read_text(encoding="utf-8")
    (tmp_path / "02_number.ipynb").write_text(text.replace("accuracy 0.900 2", "accuracy 0.901 2"), encoding="utf-8")
    (tmp_path / "03_figure.ipynb").write_text(text.replace("[1, 2, 3]", "[3, 1, 3], lw=9"), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "--nbval", "-p", "no:cacheprovider", "-p", "conftest", "."]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(reference.REPOSITORY)])}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 1 and "2 failed, 4 passed" in result.stdout
    assert "accuracy 0.901" in result.stdout and "figure 1 differs from the committed one" in result.stdout
