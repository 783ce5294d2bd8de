"""Run the notebooks, time them, and make pages of them.

    python -m helpers.batch                                    # all, as `make run`
    python -m helpers.batch 04 -p EPOCHS=3 -p IMAGES=my/folder # one, with other parameters
    python -m helpers.batch --profile full                     # notebooks/profiles/full/NAME.yaml
    python -m helpers.batch --html-only                        # pages of what was run last

Every parameter is checked before anything is run. Results go to build/: the executed notebooks,
results.json, and html/index.html, which needs no network.
"""

import argparse
import ast
import json
import math
import os
import re
import shlex
import signal
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import nbformat
import psutil
import yaml
from filelock import FileLock, Timeout
from tqdm import tqdm

from helpers import pages

REPOSITORY = Path(__file__).resolve().parent.parent
NOTEBOOKS = REPOSITORY / "notebooks"
TYPES = {"int": int, "float": float, "bool": bool, "str": str, "list": list}


class BatchError(Exception):
    """A sentence for the reader; nothing was run."""


@dataclass
class Parameter:
    type: str
    item: str  # of list[int]: int
    default: object


@dataclass
class Run:
    """One notebook of a batch and what became of it."""

    path: Path
    status: str = "not run"
    seconds: float = 0.0
    peak_mb: int = 0
    error: str = ""
    parameters: dict = field(default_factory=dict)


# ---- notebooks and their parameters -------------------------------------------------------------


def find_notebooks(names: list[str]) -> list[Path]:
    """Paths of the notebooks called e.g. "04", "4", "04_vgg16_mnist" or a path; all of the series if none."""
    series = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    if not series:
        raise BatchError(f"{NOTEBOOKS} holds no notebook (NN_name.ipynb).")
    found = []
    for name in names:
        stem = Path(name).name.removesuffix(".ipynb")
        matches = [p for p in series if stem in (p.stem, p.stem[:2], p.stem[:2].lstrip("0"))]
        if Path(name).is_file():
            matches = [Path(name).absolute()]
        if not matches:
            raise BatchError(f"There is no notebook {name}. There are: {', '.join(p.stem for p in series)}.")
        found += [p for p in matches if p not in found]
    return found or series


def read_notebook(path: Path) -> nbformat.NotebookNode:
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except OSError as error:
        raise BatchError(f"{path.name} cannot be read: {error.strerror}.") from None
    except Exception as error:
        raise BatchError(f"{path.name} is not a notebook: {first_line(error)}") from None
    return notebook


def first_line(text) -> str:
    return (str(text).strip().splitlines() or [""])[0][:300]


def tagged_source(notebook, tag: str) -> str:
    """Source of the first cell with this tag, or an empty string."""
    return next((c.source for c in notebook.cells if tag in c.metadata.get("tags", [])), "")


def parameters_of(notebook) -> dict[str, Parameter]:
    """The parameters that a notebook takes: the annotated literals of its cell tagged `parameters`."""
    found = {}
    for node in ast.parse(tagged_source(notebook, "parameters")).body:
        if isinstance(node, ast.AnnAssign) and node.value is not None:
            type_, _, item = ast.unparse(node.annotation).rstrip("]").partition("[")
            found[ast.unparse(node.target)] = Parameter(type_, item, ast.literal_eval(node.value))
    return found


def convert(text: str, type_: str, item: str):
    """The value that a text means for a parameter of this type; an error if it means none."""
    if type_ == "str":
        named = os.path.expanduser(text)  # notebooks run in their own folder: keep what the caller meant
        return os.path.abspath(named) if os.path.exists(named) else text
    if type_ == "bool":
        return {"true": True, "false": False}[text.strip().lower()]
    if type_ == "list":
        values = ast.literal_eval(text) if text.strip().startswith("[") else text.split(",")
        return [convert(v, item, "") if item and isinstance(v, str) else v for v in values]
    return TYPES[type_](text)


def fits(value, type_: str, item: str) -> bool:
    if type_ == "float":
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is TYPES[type_] and (not item or all(fits(v, item, "") for v in value))


def checked_value(where: str, name: str, value, parameter: Parameter, is_text: bool):
    """`value` in the declared type, or BatchError."""
    type_, item = parameter.type, parameter.item
    try:
        result = convert(value, type_, item) if is_text else value
        if fits(result, type_, item):
            return float(result) if type_ == "float" else result
    except (ValueError, KeyError, SyntaxError):
        pass
    wanted = f"{type_} of {item}" if item else type_
    hint = "; in YAML write 1.0e-2, not 1e-2" if not is_text and isinstance(value, str) else ""
    raise BatchError(f"{where}: {name}={value}: not of type {wanted} (default {parameter.default!r}{hint}).")


def check_ranges(name: str, notebook, values: dict) -> None:
    """Run the parameters cell, then with the new values the cell tagged `check`, as the notebook will."""
    namespace = {}
    try:
        exec(tagged_source(notebook, "parameters"), namespace)
        namespace.update(values)
        exec(tagged_source(notebook, "check"), namespace)
    except Exception as error:
        raise BatchError(f"{name}: {first_line(error)}") from None


def plan(paths: list[Path], given: list[str], profile: str = "default") -> list[Run]:
    """Check everything that can be checked before a kernel starts; one Run for each notebook."""
    texts = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (equals and name.isidentifier()):
            raise BatchError(f"Parameter {text!r}: write NAME=VALUE.")
        texts[name] = value
    runs, takes = [], {}
    for path in paths:
        notebook = read_notebook(path)
        takes[path.stem] = known = parameters_of(notebook)
        values = {} if profile == "default" else read_profile(path, profile, known)
        for name in [n for n in texts if n in known]:
            values[name] = checked_value(path.stem, name, texts[name], known[name], is_text=True)
        runs.append(Run(path, parameters=values))
    if unknown := [n for n in texts if not any(n in known for known in takes.values())]:
        lists = "; ".join(f"{stem} takes {', '.join(known) or 'none'}" for stem, known in takes.items())
        raise BatchError(f"Unknown parameter {', '.join(unknown)}. {lists}.")
    for run in runs:
        check_ranges(run.path.stem, read_notebook(run.path), run.parameters)
    return runs


def read_profile(notebook: Path, profile: str, known: dict[str, Parameter]) -> dict:
    """The values of profiles/PROFILE/NAME.yaml, checked against the parameters that the notebook takes."""
    path = notebook.parent / "profiles" / profile / f"{notebook.stem}.yaml"
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise BatchError(f"The profile {path} cannot be read: {first_line(error)}") from None
    if not isinstance(values, dict):
        raise BatchError(f"The profile {path} must be lines of NAME: value.")
    if unknown := [str(name) for name in values if name not in known]:
        raise BatchError(f"{path.name}: {notebook.stem} has no parameter {', '.join(unknown)}.")
    return {name: checked_value(path.name, name, v, known[name], is_text=False) for name, v in values.items()}


# ---- running ------------------------------------------------------------------------------------


class Watch(threading.Thread):
    """Shows how far a notebook is, and measures the peak memory of its kernel and the kernel's children."""

    def __init__(self, name: str, cells: int):
        super().__init__(daemon=True)
        self.name_, self.cells, self.done_cells, self.peak = name, cells, 0, 0
        self.start_time, self.last_line, self.over = time.monotonic(), time.monotonic(), threading.Event()
        style = "{desc} {bar:24} {n_fmt}/{total_fmt} cells  {elapsed}"
        quiet = not sys.stderr.isatty()
        self.bar = tqdm(total=cells, desc=f"{name:<26}", bar_format=style, leave=False, disable=quiet)
        if self.bar.disable:
            print(f"{name} ...", flush=True)

    def run(self):
        while not self.over.wait(0.5):
            self.measure()
            self.bar.n = self.done_cells
            self.bar.refresh()
            if self.bar.disable and time.monotonic() - self.last_line > 60:
                self.last_line = time.monotonic()
                spent = time.monotonic() - self.start_time
                print(f"{self.name_}: {self.done_cells}/{self.cells} cells, {spent:.0f} s", flush=True)

    def measure(self):
        self.peak = max(self.peak, memory_of_children())

    def finish(self) -> tuple[float, int]:
        """(seconds, peak memory in MB)"""
        self.over.set()
        self.join()
        self.bar.close()
        return round(time.monotonic() - self.start_time, 1), round(self.peak / 2**20)


def memory_of_children() -> int:
    """Bytes in use by all processes below this one, or the high-water mark of the largest, where Linux tells it."""
    total = largest = 0
    for process in psutil.Process().children(recursive=True):
        try:
            total += process.memory_info().rss
            status = Path(f"/proc/{process.pid}/status").read_text()
            largest = max(largest, int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024)
        except (psutil.Error, OSError, TypeError):
            continue
    return max(total, largest)


def make_engine(watch: Watch, log):
    """A papermill engine that counts cells for `watch` and sends the kernel's own messages to a file."""
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import NBClientEngine, papermill_engines

    class Engine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man, kernel_name, start_timeout=120, **kwargs):
            complete = nb_man.cell_complete

            def cell_complete(*args, **kw):
                watch.done_cells += 1
                watch.measure()
                return complete(*args, **kw)

            nb_man.cell_complete = cell_complete
            client = PapermillNotebookClient(
                nb_man, kernel_name=kernel_name, startup_timeout=start_timeout, timeout=None
            )
            return client.execute(stdout=log, stderr=log)

    papermill_engines.register("helpers", Engine)
    return "helpers"


def execute(run: Run, out: Path) -> None:
    """Run one notebook into `out`; never raises for what a notebook does, fills in `run`."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    notebook = read_notebook(run.path)
    target, log_path = out / run.path.name, out / f"{run.path.stem}.log"
    cells = len(notebook.cells) + bool(run.parameters)
    watch = Watch(run.path.stem, cells)
    watch.start()
    run.status = "failed"
    try:
        with open(log_path, "w") as log:
            escaped = str(target).replace("{", "{{").replace("}", "}}")  # papermill fills in braces
            papermill.execute_notebook(
                notebook, escaped, run.parameters, engine_name=make_engine(watch, log), kernel_name="python3",
                progress_bar=False, cwd=run.path.parent,
            )  # fmt: skip
        run.status = "ok"
    except KeyboardInterrupt:
        run.status = "interrupted"
    except PapermillExecutionError as error:
        run.error = f"cell [{error.exec_count}]: {error.ename}: {first_line(error.evalue)}"
    except DeadKernelError:
        run.error = (
            f"the kernel died in cell [{last_cell(target)}], most often for lack of memory: it had used "
            f"{watch.peak >> 20} MB of this machine's {psutil.virtual_memory().total >> 20} MB"
        )
    except OSError as error:
        run.error = f"{error.filename or target}: {error.strerror or error}. Is there room, and may you write there?"
    except Exception as error:
        run.error = f"{type(error).__name__}: {first_line(error)}"
    finally:
        run.seconds, run.peak_mb = watch.finish()
    if run.status == "ok":
        log_path.unlink(missing_ok=True)


def last_cell(path: Path) -> int:
    """Number of the last cell that was begun, as a saved notebook shows it."""
    try:
        return max((c.get("execution_count") or 0 for c in read_notebook(path).cells), default=0)
    except BatchError:
        return 0


def run_all(runs: list[Run], out: Path) -> None:
    """Run the notebooks one after the other; only Ctrl-C ends it early."""
    for number, run in enumerate(runs, 1):
        execute(run, out)
        note(run, out)
        print(f"[{number}/{len(runs)}] {run.path.stem:<26} {run.status:<11} {run.seconds:6.0f} s {run.peak_mb:6d} MB")
        if run.error:
            print(f"      {run.error}\n      what it did until then: {out / run.path.name}")
        sys.stdout.flush()
        if run.status == "interrupted":
            return


def read_records(out: Path) -> dict[str, dict]:
    """How the last run of every notebook went, from results.json."""
    try:
        return json.loads((out / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def note(run: Run, out: Path) -> None:
    """Add a run to results.json."""
    records = read_records(out) | {run.path.stem: {k: v for k, v in asdict(run).items() if k != "path"}}
    pages.write(out / "results.json", json.dumps(records, indent=1))


def table(runs: list[Run]) -> str:
    width = max(len(r.path.stem) for r in runs)
    lines = [f"{'notebook':<{width}}  {'status':<11}  {'seconds':>7}  {'peak MB':>7}"]
    lines += [f"{r.path.stem:<{width}}  {r.status:<11}  {r.seconds:7.0f}  {r.peak_mb:7d}" for r in runs]
    return "\n".join(lines)


# ---- the command --------------------------------------------------------------------------------


def prepare_output(out: Path) -> FileLock:
    """Make sure that `out` can be written and that no other run uses it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out) as trial:
            trial.write(b"x" * 2**20)
        lock = FileLock(out / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise BatchError(f"Another run writes to {out}: wait for it, or choose another folder with --out.") from None
    except OSError as error:
        raise BatchError(f"The folder {out} cannot be written ({error.strerror}): choose one with --out.") from None
    return lock


def current(sources: list[Path], out: Path) -> dict[Path, Path]:
    """The executed copies in `out` that are younger than their notebooks."""
    copies = {s: out / s.name for s in sources}
    return {s: c for s, c in copies.items() if c.is_file() and c.stat().st_mtime >= s.stat().st_mtime}


def options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m helpers.batch", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NOTEBOOK", help="number, name or path; default: all of the series")
    parser.add_argument("--notebooks", default="", metavar="NAMES", help="the same in one text: '01 04'")
    parser.add_argument("-p", action="append", default=[], metavar="NAME=VALUE", help="a parameter's value; repeatable")
    parser.add_argument("--params", default="", metavar="TEXT", help="the same in one text: 'EPOCHS=3 SEED=1'")
    parser.add_argument("--profile", choices=["default", "full"], default="default")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "build", help="folder of the results; default: build")
    parser.add_argument("--html-only", action="store_true", help="run nothing, only make the pages")
    chosen = parser.parse_args(arguments)
    try:
        chosen.names += shlex.split(chosen.notebooks)
        chosen.p += shlex.split(chosen.params)
    except ValueError as error:
        parser.error(f"--params: {error}")
    return chosen


def go_on(runs: list[Run], profile: str) -> str:
    left = " ".join(r.path.stem[:2] if r.path.parent == NOTEBOOKS else str(r.path) for r in runs if r.status != "ok")
    target = "full" if profile == "full" else "run"
    return f'Interrupted. What is finished is kept; go on with: make {target} NB="{left}" (and the same PARAMS).'


def main(arguments: list[str] | None = None) -> int:
    chosen = options(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ.update(HELPERS_PROGRESS="0", JUPYTER_PREFER_ENV_PATH="1")
    runs = []
    try:
        paths = find_notebooks(chosen.names)
        if not chosen.html_only:
            runs = plan(paths, chosen.p, chosen.profile)
        lock = prepare_output(chosen.out)
        try:
            run_all(runs, chosen.out.absolute())
            if runs:
                print("\n" + table(runs))
            if any(r.status == "interrupted" for r in runs):
                print(go_on(runs, chosen.profile))
                return 130
            everything = list(dict.fromkeys(find_notebooks([]) + paths))
            index = pages.make_pages(
                everything, chosen.out / "html", current(everything, chosen.out), read_records(chosen.out)
            )
        finally:
            lock.release()
    except BatchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}. Is there room, and may you write there?", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    print(f"\nTo read them, open {index}")
    return int(any(r.status != "ok" for r in runs))


if __name__ == "__main__":
    sys.exit(main())
