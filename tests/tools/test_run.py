"""Running notebooks: what is shown, what is kept, and what the exit code is."""

import json
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
from filelock import FileLock
from tiny import printed_by, write_notebook

import run

pytestmark = pytest.mark.slow


@pytest.fixture
def series(tmp_path, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "0")
    return tmp_path / "notebooks"


def command(series, *arguments):
    return [sys.executable, run.__file__, "--series", series, "--out", series.parent / "build", *arguments]


def ran(series, *arguments):
    return subprocess.run(command(series, *arguments), capture_output=True, text=True, timeout=300)


def results(series):
    return json.loads((series.parent / "build" / "results.json").read_text())


def test_each_notebook_is_reported_and_kept(series):
    """One fails, one dies, one is good: all are run, all is kept, and the next call keeps what it does not run."""
    build = series.parent / "build"
    write_notebook(series / "01_bad.ipynb", "print('so far', flush=True)\n1 / 0")
    write_notebook(series / "02_dead.ipynb", "import os\nos.kill(os.getpid(), 9)")
    write_notebook(series / "03_good.ipynb", "import os\nprint(EPOCHS, os.getcwd(), os.environ['TQDM_DISABLE'])")
    result = ran(series, "-p", "EPOCHS=3")
    assert result.returncode == 1 and "\r" not in result.stdout
    rows = re.findall(r"^(\w+) +(\w+) +\d+ +\d{2,}$", result.stdout, re.MULTILINE)
    assert rows == [("01_bad", "failed"), ("02_dead", "failed"), ("03_good", "ok")]
    assert "cell [4]: ZeroDivisionError: division by zero" in result.stdout
    assert re.search(r"the kernel died, most often for lack of memory: it had used \d+ MB", result.stdout)
    assert result.stdout.rstrip().endswith(f"open {build / 'html' / 'index.html'}")
    assert printed_by(build / "01_bad.ipynb") == "so far\n"
    assert printed_by(build / "03_good.ipynb") == f"3 {series} 1\n"
    before = results(series)
    assert before["03_good"]["parameters"] == {"EPOCHS": 3} and ran(series, "03").returncode == 0
    assert results(series)["03_good"]["parameters"] == {} and results(series)["01_bad"] == before["01_bad"]
    (build / "results.json").write_text('{"01_bad": [')
    (build / "03_good.ipynb").write_text('{"cells":')
    result = ran(series, "--html-only")
    assert result.returncode == 0 and "results.json is damaged" in result.stdout
    assert "03_good.ipynb is left out" in result.stdout and (build / "html/notebooks/03_good.html").exists()


def test_memory_is_measured_and_the_runner_needs_little(series):
    """A block that is touched and freed within a cell is seen, in the kernel and in its child."""
    block = "block = b'x' * 400_000_000\ndel block"
    parent = "import psutil\nprint(psutil.Process().parent().memory_info().rss >> 20)"
    slow = block.replace("del block", "__import__('time').sleep(2)")
    write_notebook(series / "01_big.ipynb", block, parent)
    write_notebook(series / "02_child.ipynb", f"import os, sys\nos.spawnl(0, sys.executable, 'child', '-c', {slow!r})")
    assert ran(series).returncode == 0
    peak = {name: result["peak_mb"] for name, result in results(series).items()}
    assert 400 < peak["01_big"] < 600 and 350 < peak["02_child"] < 600
    assert int(printed_by(series.parent / "build" / "01_big.ipynb")) < 150


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "terminate"])
def test_an_interrupt_keeps_what_was_done(series, signal_):
    """Partial output is kept, the kernel ends, the rest is not begun, and a line says how to go on."""
    slow = series.parent / "build" / "01_slow.ipynb"
    write_notebook(series / slow.name, "import time\nprint('begun', flush=True)\nopen('begun', 'w')\ntime.sleep(300)")
    write_notebook(series / "02_next.ipynb")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    process = subprocess.Popen(command(series), stdout=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (series / "begun").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.2)
    time.sleep(1)
    kernels = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal_)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and kernels and not psutil.wait_procs(kernels, timeout=10)[1]
    assert re.search(r"^01_slow +interrupted", out, re.MULTILINE) and 'NB="01_slow 02_next"' in out.splitlines()[-1]
    assert printed_by(slow) == "begun\n" and [*results(series)] == ["01_slow"]


def test_two_runs_do_not_mix(series):
    write_notebook(series / "01_one.ipynb")
    (build := series.parent / "build").mkdir()
    with FileLock(build / ".lock"):
        result = ran(series)
    assert result.returncode == 2 and result.stderr.startswith(f"error: another run writes to {build}")


def test_make_passes_names_values_and_options_on():
    """`make run NB="01 02" PARAMS="..."`: the shell splits them, quotes keep spaces together."""

    def made(*words):
        # `make test` calls this within make: the inner make must not report the folders that it enters and leaves.
        command = ["make", "-n", "--no-print-directory", *words]
        return subprocess.run(command, cwd=run.REPOSITORY, capture_output=True, text=True).stdout

    assert "tools/run.py 01 02 -p A=3 B='my cat'\n" in made("run", "NB=01 02", "PARAMS=A=3 B='my cat'")
    assert made("check", "ARGS=-x").endswith("-x\n") and "--profile full 03" in made("full", "NB=03")
