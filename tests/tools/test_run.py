"""Running notebooks: what is shown, what is kept, what the exit code is, and the pages."""

import base64
import html.parser
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import psutil
import pytest
from filelock import FileLock
from nbformat import v4
from PIL import Image
from test_parameters import CHECK, PARAMETERS, write_notebook

from helpers import batch, pages

TESTS = Path(__file__).resolve().parent
FIGURE = "import matplotlib.pyplot as plt\nplt.plot([1, 2, 3])\nplt.show()"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    series = tmp_path / "notebooks"
    series.mkdir()
    monkeypatch.setattr(batch, "NOTEBOOKS", series)
    return series


def run(folder, *arguments):
    return batch.main(["--out", str(folder.parent / "build"), *arguments])


def printed_by(path: Path) -> str:
    notebook = nbformat.read(path, as_version=4)
    return "".join(o.get("text", "") for c in notebook.cells for o in c.get("outputs", []))


# ---- running ------------------------------------------------------------------------------------


def test_run_two_notebooks(folder, capfd):
    """One of two fails: the other is run all the same, everything is reported, the exit code is 1."""
    write_notebook(folder / "01_bad.ipynb", body="print('so far', flush=True)\n1 / 0")
    write_notebook(
        folder / "02_good.ipynb", body="import os\nprint(EPOCHS, os.getcwd(), os.environ['HELPERS_PROGRESS'])"
    )
    assert run(folder, "-p", "EPOCHS=3") == 1
    out, err = capfd.readouterr()
    assert re.search(r"^01_bad +failed +\d+ +\d{2,}$", out, re.MULTILINE)
    assert re.search(r"^02_good +ok +\d+ +\d{2,}$", out, re.MULTILINE)
    assert "cell [4]: ZeroDivisionError: division by zero" in out
    assert out.rstrip().endswith(f"open {folder.parent / 'build' / 'html' / 'index.html'}")
    assert err == "" and "Warning" not in out and "WARNING" not in out
    assert printed_by(folder.parent / "build" / "01_bad.ipynb") == "so far\n"
    assert printed_by(folder.parent / "build" / "02_good.ipynb") == f"3 {folder} 0\n"
    records = json.loads((folder.parent / "build" / "results.json").read_text())
    assert records["01_bad"]["status"] == "failed" and records["02_good"]["parameters"] == {"EPOCHS": 3}


def test_memory_is_measured(folder, capfd):
    """A block that is touched and freed before the cell ends is seen, in the kernel and in its child."""
    body = "block = b'x' * 400_000_000\ndel block"
    write_notebook(folder / "01_big.ipynb", body=body)
    write_notebook(folder / "02_small.ipynb", body="1")
    in_child = body.replace("del block", "import time; time.sleep(2)")
    child = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {in_child!r}])"
    write_notebook(folder / "03_child.ipynb", body=child)
    assert run(folder) == 0
    peak = {k: v["peak_mb"] for k, v in json.loads((folder.parent / "build/results.json").read_text()).items()}
    assert 350 < peak["01_big"] - peak["02_small"] < 450
    assert 350 < peak["03_child"] < 550


def test_a_dead_kernel_gets_a_sentence(folder, capfd):
    write_notebook(folder / "01_dead.ipynb", body="import os\nprint('alive', flush=True)\nos.kill(os.getpid(), 9)")
    write_notebook(folder / "02_good.ipynb")
    assert run(folder) == 1
    out, err = capfd.readouterr()
    assert err == ""
    assert re.search(
        r"the kernel died in cell \[3\], most often for lack of memory: it had used \d+ MB of .* \d+ MB", out
    )
    assert re.search(r"^02_good +ok", out, re.MULTILINE)


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "terminate"])
def test_an_interrupt_keeps_what_was_done(folder, signal_):
    """Partial output is kept, the kernel ends, the rest is not begun, and a line says how to go on."""
    write_notebook(folder / "01_slow.ipynb", body="import time\nprint('begun', flush=True)\ntime.sleep(300)")
    write_notebook(folder / "02_next.ipynb")
    build = folder.parent / "build"
    code = f"""import signal, sys; from pathlib import Path; signal.signal(signal.SIGINT, signal.default_int_handler)
from helpers import batch; batch.NOTEBOOKS = Path({str(folder)!r}); sys.exit(batch.main(['--out', {str(build)!r}]))"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (build / "01_slow.ipynb").exists() or "RUNNING".lower() not in slow_cell_status(build / "01_slow.ipynb"):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.2)
    time.sleep(1.5)
    kernels = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal_)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 130 and kernels and not psutil.wait_procs(kernels, timeout=5)[1]
    assert re.search(r"^01_slow +interrupted", out, re.MULTILINE) and re.search(r"^02_next +not run", out, re.MULTILINE)
    assert out.rstrip().splitlines()[-1].startswith("Interrupted.") and 'NB="01 02"' in out
    assert printed_by(build / "01_slow.ipynb") == "begun\n"


def slow_cell_status(path: Path) -> str:
    try:
        return nbformat.read(path, as_version=4).cells[-1].metadata.get("papermill", {}).get("status", "")
    except Exception:  # it is being written
        return ""


def test_no_progress_bar_when_not_on_a_terminal(folder, capfd):
    write_notebook(folder / "01_one.ipynb")
    assert run(folder) == 0
    captured = capfd.readouterr()
    assert captured.err == "" and "\r" not in captured.out
    assert re.search(r"^01_one ... \d of 3 cells begun, 0 s$", captured.out, re.MULTILINE)


@pytest.mark.skipif(os.name == "nt", reason="pseudo-terminals are POSIX")
def test_progress_bar_on_a_terminal(folder):
    import fcntl
    import pty
    import struct
    import termios

    write_notebook(folder / "01_one.ipynb", body="import time\ntime.sleep(2)")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    code = f"""import sys; from pathlib import Path; from helpers import batch
batch.NOTEBOOKS = Path({str(folder)!r}); sys.exit(batch.main(['--out', {str(folder.parent / "build")!r}]))"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    seen = b""
    try:
        while block := os.read(ours, 4096):
            seen += block
    except OSError:  # the other end was closed
        pass
    assert process.wait() == 0
    assert re.search(r"01_one .* 3/4 cells +00:0\d", seen.decode())


# ---- bad input ----------------------------------------------------------------------------------


def test_which_notebooks(folder):
    one, two = write_notebook(folder / "01_one.ipynb"), write_notebook(folder / "02_two.ipynb")
    other = write_notebook(folder.parent / "mine.ipynb")
    assert batch.find_notebooks([]) == [one, two]
    assert batch.find_notebooks(["02", "1", "01_one", "01_one.ipynb", str(other)]) == [two, one, other]
    with pytest.raises(batch.BatchError, match=r"no notebook 07\. There are: 01_one, 02_two"):
        batch.find_notebooks(["07"])
    one.unlink()
    two.unlink()
    with pytest.raises(batch.BatchError, match="holds no notebook"):
        batch.find_notebooks([])


@pytest.mark.parametrize("content", ["", "not JSON {", "[]", "{}", '{"cells": 3, "nbformat": 4, "metadata": {}}'])
def test_what_is_no_notebook(folder, capsys, content):
    write_notebook(folder / "01_one.ipynb")
    (folder / "02_two.ipynb").write_text(content)
    assert run(folder) == 2
    assert capsys.readouterr().err.startswith("error: 02_two.ipynb is not a notebook: ")
    assert not (folder.parent / "build").exists()


def test_output_folder_that_is_a_file(folder, capsys):
    write_notebook(folder / "01_one.ipynb")
    (folder.parent / "build").write_text("I am a file")
    assert run(folder) == 2
    assert re.fullmatch(r"error: The folder \S+/build cannot be written \(.+\): choose one with --out.\n",
                        capsys.readouterr().err)  # fmt: skip


def test_output_folder_without_permission(folder, capsys, monkeypatch):
    """Also for root, whom no permission stops."""
    write_notebook(folder / "01_one.ipynb")

    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(batch.tempfile, "TemporaryFile", refuse)
    assert run(folder) == 2
    assert "cannot be written (Permission denied): choose one with --out" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_gets_a_sentence(folder, capfd):
    """The executed notebook lies on a full disk."""
    write_notebook(folder / "01_one.ipynb")
    build = folder.parent / "build"
    build.mkdir()
    (build / "01_one.ipynb").symlink_to("/dev/full")
    assert run(folder) == 1
    out = capfd.readouterr().out
    assert re.search(r"01_one\.ipynb: No space left on device\. Is there room", out)
    assert re.search(r"^01_one +failed", out, re.MULTILINE)


@pytest.mark.parametrize("content", ["{", "[1]", b"\xff"])
def test_a_damaged_table_of_earlier_runs_is_made_anew(folder, content):
    write_notebook(folder / "01_good.ipynb", body="1")
    results = folder.parent / "build" / "results.json"
    results.parent.mkdir()
    results.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert run(folder) == 0
    assert json.loads(results.read_text())["01_good"]["status"] == "ok"


def test_an_unclosed_quote_gets_a_sentence(folder, capsys):
    write_notebook(folder / "01_good.ipynb", body="1")
    with pytest.raises(SystemExit, match="2"):
        run(folder, "--params", 'NAME="a b')
    assert 'NAME="a b: No closing quotation' in capsys.readouterr().err


def test_two_runs_do_not_mix(folder, capsys):
    write_notebook(folder / "01_one.ipynb")
    (folder.parent / "build").mkdir()
    with FileLock(folder.parent / "build" / ".lock"):
        assert run(folder) == 2
    assert "Another run writes to" in capsys.readouterr().err


def test_make_passes_names_and_values_on(folder):
    """`make run NB="01 02" PARAMS="..."`: each is one text; quotes keep spaces."""
    chosen = batch.options(["--notebooks", "01 02", "--params", "EPOCHS=3 IMAGE='my cat.jpg'"])
    assert chosen.names == ["01", "02"] and chosen.p == ["EPOCHS=3", "IMAGE=my cat.jpg"]
    shown = subprocess.run(
        ["make", "-n", "run", "NB=01 02", "PARAMS=EPOCHS=3"], cwd=batch.REPOSITORY, capture_output=True, text=True
    ).stdout
    assert '-m helpers.batch --notebooks "$NB" --params "$PARAMS"' in shown


# ---- pages --------------------------------------------------------------------------------------


class Loaded(html.parser.HTMLParser):
    """Collects what a page loads, and where its links lead."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.links = [], []
        self.feed(text)
        self.loads += re.findall(r"(?:import|from)\s*\(?\s*['\"](\w+://[^'\"]+|//[^'\"]+)['\"]", text)
        self.loads += [u for u in re.findall(r"url\(\s*['\"]?([^)'\"]+)", text) if not u.startswith(("data:", "#"))]

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag == "a":
            self.links.append(given.get("href", ""))
        sources = [given.get("src"), given.get("srcset"), given.get("href") if tag == "link" else None]
        self.loads += [s for s in sources if s is not None and not s.startswith("data:")]


def test_the_page_reader_sees_what_is_loaded():
    for text in ['<script src="https://x.org/a.js"></script>', '<link href="http://x.org/a.css">', '<img src="a.png">',
                 '<script>import m from "https://x.org/m.mjs"</script>', "<script>import('https://x.org/m.js')</script>",
                 "<style>@import url(https://x.org/a.css)</style>", '<iframe src="//x.org"></iframe>']:  # fmt: skip
        assert Loaded(text).loads, text
    assert not Loaded('<a href="https://x.org">x</a><img src="data:image/png;base64,x">').loads


@pytest.fixture
def site(folder, capfd):
    """Pages of two executed notebooks with links, a picture and solutions."""
    Image.new("RGB", (8, 8), "red").save(folder / "red.png")
    one = write_notebook(folder / "01_one.ipynb", PARAMETERS, CHECK, FIGURE)
    notebook = nbformat.read(one, as_version=4)
    notebook.cells.append(v4.new_markdown_cell(
        "[next](02_two.ipynb#Part-two) [solutions](solutions/01_one_solutions.ipynb) [home](../README.md) "
        "[out](https://example.org/03_x.ipynb) [file](red.png)\n\n![a red square](red.png)"
    ))  # fmt: skip
    nbformat.write(notebook, one)
    write_notebook(folder / "02_two.ipynb", body="print('no figure')")
    solutions = write_notebook(folder / "solutions" / "01_one_solutions.ipynb")
    notebook = nbformat.read(solutions, as_version=4)
    notebook.cells.append(v4.new_markdown_cell("[back](../01_one.ipynb)"))
    nbformat.write(notebook, solutions)
    assert run(folder, "-p", "EPOCHS=3") == 0
    return folder.parent / "build" / "html"


def test_pages_need_no_network_and_links_lead_somewhere(site):
    found = sorted(str(p.relative_to(site)) for p in site.rglob("*"))
    assert found == ["01_one.html", "02_two.html", "index.html", "solutions", "solutions/01_one_solutions.html"]
    for page in site.rglob("*.html"):
        loaded = Loaded(page.read_text(encoding="utf-8"))
        assert loaded.loads == [], page.name
        for link in loaded.links:
            if not link.startswith("https:"):
                file = link.partition("#")[0]
                assert not file.endswith(".ipynb") and (page.parent / (file or page.name)).exists(), (page.name, link)
    text = (site / "01_one.html").read_text(encoding="utf-8")
    for link in (
        "02_two.html#Part-two",
        "solutions/01_one_solutions.html",
        "index.html",
        "https://example.org/03_x.ipynb",
    ):
        assert f'href="{link}"' in text
    assert 'href="../01_one.html"' in (site / "solutions" / "01_one_solutions.html").read_text(encoding="utf-8")


def test_index_shows_every_notebook(site):
    text = (site / "index.html").read_text(encoding="utf-8")
    assert text.count('<article class="card">') == 2
    for part in ("01 · A notebook", "02 · A notebook", "Its first paragraph.", 'class="status ok"', "EPOCHS = 3"):
        assert part in text, part
    (coded,) = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(coded))))
    assert max(picture.shape) <= 640 and picture.std() > 5
    records = json.loads((site.parent / "results.json").read_text())
    for record in records.values():
        assert f"{record['seconds']:.0f} s" in text and f"{record['peak_mb']} MB" in text


def test_index_keeps_the_others_after_a_run_of_one(site, folder):
    """Notebooks that were not run this time, or changed since, are shown too."""
    assert run(folder, "02") == 0
    text = (site / "index.html").read_text(encoding="utf-8")
    assert text.count('class="status ok"') == 2
    os.utime(folder / "01_one.ipynb", (time.time() + 9, time.time() + 9))
    assert run(folder, "--html-only") == 0
    text = (site / "index.html").read_text(encoding="utf-8")
    assert text.count('class="status ok"') == 1 and "as published, not run here" in text


def test_index_is_safe_against_markup(tmp_path):
    notebook = v4.new_notebook(
        cells=[v4.new_markdown_cell("# 01 · a < b & c\n\nUse *x* < `y_1` & [z](z.html), 2 * 3.")]
    )
    title, paragraph = pages.opening(notebook)
    assert (title, paragraph) == ("01 · a < b & c", "Use x < y_1 & z, 2 * 3.")
    record = {"status": "failed", "seconds": 1, "peak_mb": 2, "parameters": {"A": "<i>"}, "error": "<script>"}
    nbformat.write(notebook, source := tmp_path / "01_x.ipynb")
    text = pages.make_pages([source], tmp_path / "html", {source: source}, {"01_x": record}).read_text(encoding="utf-8")
    assert "a &lt; b &amp; c" in text and "&lt;script&gt;" in text and "<script>" not in text and "<i>" not in text


# ---- the committed outputs are compared ---------------------------------------------------------


def nbval(path: Path) -> subprocess.CompletedProcess:
    """nbval on one notebook with this folder's conftest, as `make test` runs it."""
    command = [sys.executable, "-m", "pytest", "--nbval", "-p", "no:cacheprovider", "-p", "conftest", path.name]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(command, cwd=path.parent, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture
def committed(tmp_path):
    """An executed notebook that prints a number and draws a figure."""
    path = write_notebook(tmp_path / "01_one.ipynb", body="print(f'accuracy {0.1 * 9:.3f}')")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells += [v4.new_markdown_cell("A figure."), v4.new_code_cell(FIGURE)]
    nbformat.write(notebook, path)
    subprocess.run([sys.executable, TESTS / "refresh_outputs.py", path], check=True, capture_output=True)
    return path


def test_a_committed_notebook_passes_and_a_changed_number_fails(committed):
    assert nbval(committed).returncode == 0
    text = committed.read_text(encoding="utf-8")
    committed.write_text(text.replace('"accuracy 0.900', '"accuracy 0.901'), encoding="utf-8")
    assert committed.read_text(encoding="utf-8") != text
    result = nbval(committed)
    assert result.returncode == 1 and "1 failed" in result.stdout and "accuracy 0.901" in result.stdout


def test_a_changed_figure_fails(committed):
    text = committed.read_text(encoding="utf-8")
    committed.write_text(text.replace("plt.plot([1, 2, 3])", "plt.plot([3, 1, 3], lw=9)"), encoding="utf-8")
    result = nbval(committed)
    assert result.returncode == 1 and "picture 1 differs from the committed one" in result.stdout


def test_refresh_is_clean_and_leaves_failing_notebooks_alone(committed):
    notebook = nbformat.read(committed, as_version=4)
    assert all(set(c.metadata) <= {"tags"} for c in notebook.cells)
    assert set(notebook.metadata) == {"kernelspec", "language_info"} and notebook.metadata.language_info == {
        "name": "python"
    }
    assert [c.execution_count for c in notebook.cells if c.cell_type == "code"] == [1, 2, 3, 4]
    notebook.cells[-1].source = "1 / 0"
    nbformat.write(notebook, committed)
    before = committed.read_bytes()
    result = subprocess.run([sys.executable, TESTS / "refresh_outputs.py", committed], capture_output=True, text=True)
    assert result.returncode == 1 and "left as it was: ZeroDivisionError" in result.stdout
    assert committed.read_bytes() == before and [p.name for p in committed.parent.iterdir()] == [committed.name]


def test_reference_environment_holds_here_and_in_kernels():
    import conftest

    import helpers

    assert conftest.reference_env() == helpers.REFERENCE_ENV
    assert {k: os.environ.get(k) for k in helpers.REFERENCE_ENV} == helpers.REFERENCE_ENV
    assert "reference-" in os.environ["KERAS_HOME"] and "reference-" in os.environ["HELPERS_CACHE"]
