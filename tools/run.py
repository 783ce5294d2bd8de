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
import itertools
import json
import os
import re
import shlex
import signal
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL
from typing import NamedTuple, get_args, get_origin

import nbformat
import pages
import papermill
import psutil
import yaml
from filelock import FileLock, Timeout
from nbclient.exceptions import DeadKernelError
from pydantic import ConfigDict, TypeAdapter

REPOSITORY = Path(__file__).resolve().parent.parent
NOTEBOOKS = REPOSITORY / "notebooks"


class BatchError(Exception):
    """A sentence for the reader."""


class Parameter(NamedTuple):
    type: type
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
        stem = Path(name).name.removesuffix(".ipynb").zfill(2)
        matches = [p for p in series if stem in (p.stem, p.stem[:2])]
        if Path(name).is_file():
            matches = [Path(name).absolute()]
        if not matches:
            raise BatchError(f"There is no notebook {name}. There are: {', '.join(p.stem for p in series)}.")
        found += matches
    return list(dict.fromkeys(found)) or series


def read_notebook(path: Path) -> nbformat.NotebookNode:
    try:
        nbformat.validate(notebook := nbformat.read(path, as_version=4))
    except Exception as error:
        fault = "cannot be read" if isinstance(error, OSError) else "is not a notebook"
        raise BatchError(f"{path.name} {fault}: {first_line(error)}") from None
    return notebook


def first_line(text) -> str:
    return str(text).strip().partition("\n")[0][:300]


def run_cell(path: Path, tag: str, namespace: dict) -> dict:
    """The namespace after the notebook's first cell with this tag, if it has one, was run in it."""
    source = next((c.source for c in read_notebook(path).cells if tag in c.metadata.get("tags", [])), "")
    try:
        exec(source, namespace)
    except Exception as error:
        raise BatchError(f"{path.stem}: {first_line(error)}") from None
    return namespace


def parameters_of(path: Path) -> dict[str, Parameter]:
    """The parameters that a notebook takes: the annotated names of its cell tagged `parameters`."""
    values = run_cell(path, "parameters", {})
    return {name: Parameter(type_, values.get(name)) for name, type_ in values.get("__annotations__", {}).items()}


def from_text(text: str, type_: type):
    """The value that a text means for a parameter of this type; an error if it means none."""
    if type_ is str:
        named = os.path.expanduser(text)  # notebooks run in their own folder: keep what the caller meant
        return os.path.abspath(named) if os.path.exists(named) else text
    if type_ is bool:
        return {"true": True, "false": False}[text.strip().lower()]
    if get_origin(type_) is list:
        values = ast.literal_eval(text) if text.strip().startswith("[") else text.split(",")
        return [from_text(v, *get_args(type_)) if isinstance(v, str) else v for v in values]
    return type_(text)


def checked_value(where: str, name: str, value, parameter: Parameter, is_text: bool):
    """`value` in the declared type, or BatchError."""
    type_, default = parameter
    try:
        strict = TypeAdapter(type_, config=ConfigDict(strict=True, allow_inf_nan=False))
        return strict.validate_python(from_text(value, type_) if is_text else value)
    except Exception:  # of pydantic, or of whatever turns a text into this type
        wanted = type_ if get_args(type_) else getattr(type_, "__name__", type_)
        hint = "; in YAML write 1.0e-2, not 1e-2" if not is_text and isinstance(value, str) else ""
        raise BatchError(f"{where}: {name}={value}: not of type {wanted} (default {default!r}{hint}).") from None


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


def plan(paths: list[Path], given: list[str], profile: str = "default") -> list[Run]:
    """Check everything that can be checked before a kernel starts; one Run for each notebook."""
    if wrong := [text for text in given if not re.match(r"[^\W\d]\w*=", text)]:
        raise BatchError(f"Parameter {wrong[0]!r}: write NAME=VALUE.")
    texts = dict(text.split("=", 1) for text in given)
    takes = {path: parameters_of(path) for path in paths}
    if unknown := [name for name in texts if not any(name in known for known in takes.values())]:
        lists = "; ".join(f"{path.stem} takes {', '.join(known) or 'none'}" for path, known in takes.items())
        raise BatchError(f"Unknown parameter {', '.join(unknown)}. {lists}.")
    runs = []
    for path, known in takes.items():
        values = {} if profile == "default" else read_profile(path, profile, known)
        values |= {n: checked_value(path.stem, n, texts[n], known[n], is_text=True) for n in texts if n in known}
        run_cell(path, "check", run_cell(path, "parameters", {}) | values)  # as the notebook will
        runs.append(Run(path, parameters=values))
    return runs


# ---- running ------------------------------------------------------------------------------------


class Engine(papermill.engines.NBClientEngine):
    """Runs a notebook, shows how far it is, and notes the peak memory of its kernel and the kernel's children."""

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, run, **_):
        def measure(**_):
            run.peak_mb = max(run.peak_mb, memory_of_children() >> 20)

        def watch():
            for tick in itertools.count():
                if nb_man.pbar.disable and tick % 120 == 0:  # no terminal: a line a minute
                    begun = f"{client.code_cells_executed} of {cells} cells begun"
                    print(f"{run.path.stem} ... {begun}, {tick // 2} s", flush=True)
                nb_man.pbar.refresh()
                if over.wait(0.5):
                    break
                measure()  # not at once: a child that has not yet become the kernel has this process's memory

        cells = sum(cell.cell_type == "code" for cell in nb_man.nb.cells)
        settings = {"kernel_name": kernel_name, "startup_timeout": 120, "timeout": None}
        client = papermill.clientwrap.PapermillNotebookClient(nb_man, on_cell_executed=measure, **settings)
        over, watcher = threading.Event(), threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            client.execute(stdout=DEVNULL, stderr=DEVNULL)  # what the kernel itself has to say
        except DeadKernelError:
            run.error = (
                f"the kernel died in cell [{client.code_cells_executed}], most often for lack of memory: it had used "
                f"{run.peak_mb} MB of this machine's {psutil.virtual_memory().total >> 20} MB"
            )
        finally:
            over.set()
            watcher.join()


papermill.engines.papermill_engines.register("helpers", Engine)


def memory_of_children() -> int:
    """Bytes in use by all processes below this one, or the high-water mark of the largest, where Linux tells it."""
    total = largest = 0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error, OSError, TypeError):
            total += process.memory_info().rss
            status = Path(f"/proc/{process.pid}/status").read_text()
            largest = max(largest, int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024)
    return max(total, largest)


def execute(run: Run, out: Path) -> None:
    """Run one notebook into `out`; never raises for what a notebook does, fills in `run`."""
    target, start = out / run.path.name, time.monotonic()
    style = "{desc} {bar:24} {n_fmt}/{total_fmt} cells  {elapsed}"
    bar = {"desc": f"{run.path.stem:<26}", "bar_format": style, "leave": False, "disable": None}  # on a terminal
    try:
        papermill.execute_notebook(
            read_notebook(run.path), str(target).replace("{", "{{").replace("}", "}}"),  # papermill fills in braces
            run.parameters, "helpers", kernel_name="python3", progress_bar=bar, cwd=run.path.parent, run=run,
        )  # fmt: skip
    except KeyboardInterrupt:
        run.status = "interrupted"
    except papermill.PapermillExecutionError as error:
        run.error = f"cell [{error.exec_count}]: {error.ename}: {first_line(error.evalue)}"
    except OSError as error:
        run.error = f"{error.filename or target}: {error.strerror or error}. Is there room, and may you write there?"
    except Exception as error:
        run.error = f"{type(error).__name__}: {first_line(error)}"
    if run.status != "interrupted":
        run.status = "failed" if run.error else "ok"
    run.seconds = round(time.monotonic() - start, 1)


def run_all(runs: list[Run], out: Path) -> dict[str, dict]:
    """Run the notebooks one after the other; returns how the last run of every notebook went, from results.json.

    Prints a table that grows by a line for each. Only Ctrl-C ends it early, which is raised when the table is whole.
    """
    results, records = out / "results.json", {}
    with suppress(OSError, ValueError, TypeError):  # none yet, or damaged: the pages then show no times of earlier runs
        records = dict(json.loads(results.read_text(encoding="utf-8")))
    if runs:
        print(f"{'notebook':<26}  {'status':<11}  {'seconds':>7}  {'peak MB':>7}")
    for run in runs:
        if all(r.status != "interrupted" for r in runs):
            execute(run, out)
            records[run.path.stem] = {name: value for name, value in vars(run).items() if name != "path"}
            pages.write(results, json.dumps(records, indent=1))
        print(f"{run.path.stem:<26}  {run.status:<11}  {run.seconds:7.0f}  {run.peak_mb:7d}", flush=True)
        if run.error:
            print(f"      {run.error}\n      what it did until then: {out / run.path.name}", flush=True)
    if any(r.status == "interrupted" for r in runs):
        raise KeyboardInterrupt
    return records


# ---- the command --------------------------------------------------------------------------------


def lock_folder(out: Path):
    """A lock on the folder of the results, after making sure that it can be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out) as trial:
            trial.write(b"x" * 2**20)
        return FileLock(out / ".lock").acquire(timeout=0)
    except Timeout:
        raise BatchError(f"Another run writes to {out}: wait for it, or choose another folder with --out.") from None
    except OSError as error:
        raise BatchError(f"The folder {out} cannot be written ({error.strerror}): choose one with --out.") from None


def words(text: str) -> list[str]:
    """`text` split as the shell splits a line."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from None


def options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m helpers.batch", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NOTEBOOK", help="number, name or path; default: all of the series")
    parser.add_argument("--notebooks", type=words, default=[], help="the same in one text: '01 04'")
    parser.add_argument("-p", metavar="NAME=VALUE", action="append", default=[], help="a parameter's value; repeatable")
    parser.add_argument("--params", type=words, default=[], help="the same in one text: 'EPOCHS=3 SEED=1'")
    parser.add_argument("--profile", choices=["default", "full"], default="default")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "build", help="folder of the results; default: build")
    parser.add_argument("--html-only", action="store_true", help="run nothing, only make the pages")
    chosen = parser.parse_args(arguments)
    chosen.names += chosen.notebooks
    chosen.p += chosen.params
    return chosen


def main(arguments: list[str] | None = None) -> int:
    chosen, runs = options(arguments), []
    out = chosen.out.absolute()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ.update(HELPERS_PROGRESS="0", JUPYTER_PREFER_ENV_PATH="1")
    try:
        paths = find_notebooks(chosen.names)
        if not chosen.html_only:
            runs = plan(paths, chosen.p, chosen.profile)
        with lock_folder(out):
            records = run_all(runs, out)
            sources = list(dict.fromkeys(find_notebooks([]) + paths))
            copies = {s: c for s in sources if (c := out / s.name).exists() and c.stat().st_mtime >= s.stat().st_mtime}
            index = pages.make_pages(sources, out / "html", copies, records)
    except BatchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}. Is there room, and may you write there?", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        left = [r.path.stem[:2] if r.path.parent == NOTEBOOKS else str(r.path) for r in runs if r.status != "ok"]
        target = "full" if chosen.profile == "full" else "run"
        way = f'What is finished is kept; go on with: make {target} NB="{" ".join(left)}" (and the same PARAMS).'
        print("Interrupted.", way if left else "")
        return 130
    print(f"\nTo read them, open {index}")
    return int(any(r.status != "ok" for r in runs))


if __name__ == "__main__":
    sys.exit(main())
