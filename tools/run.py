"""Run the notebooks, time them, and make the pages.

    python tools/run.py                                  # all, as `make run`
    python tools/run.py 01 04 -p EPOCHS=3 IMAGES=my/cat  # some, with other parameters
    python tools/run.py --profile full                   # notebooks/profiles/full/NAME.yaml

Every parameter is checked before any kernel starts. Results go to build/: the executed notebooks,
results.json, and html/index.html.
"""

import argparse
import os
import re
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_origin

import nbformat
import papermill
import psutil
import pydantic
import yaml
from filelock import FileLock, Timeout
from nbclient.exceptions import DeadKernelError

from pages import first_line, make_pages

REPOSITORY = Path(__file__).resolve().parent.parent


class RunError(Exception):
    """A sentence for the reader."""


@dataclass
class Run:
    """One notebook and what became of it."""

    path: str
    parameters: dict = field(default_factory=dict)
    status: str = "not run"
    seconds: float = 0.0
    peak_mb: int = 0
    error: str = ""
    date: str = ""


RESULTS = pydantic.TypeAdapter(dict[str, Run])


# ---- notebooks and their parameters -------------------------------------------------------------


def find_notebooks(folder: Path, names: list[str]) -> list[Path]:
    """Paths of the notebooks called e.g. "04", "4", "04_vgg16_mnist" or a path; all of the folder's series if none."""
    series = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    called = {key: path for path in series for key in (path.name, path.stem, path.stem[:2], path.stem[:2].lstrip("0"))}
    paths = [called.get(name, Path(name).absolute()) for name in names] or series
    if missing := [path.name for path in paths or [folder] if not path.is_file()]:
        raise RunError(f"There is no notebook {missing[0]}. There are: {', '.join(p.stem for p in series) or 'none'}.")
    return list(dict.fromkeys(paths))


def run_cell(path: Path, tag: str, namespace: dict) -> dict:
    """The namespace after the notebook's first cell with this tag, if it has one, was run in it."""
    try:
        nbformat.validate(notebook := nbformat.read(path, as_version=4))
        exec(next((cell.source for cell in notebook.cells if tag in cell.metadata.get("tags", [])), ""), namespace)
    except Exception as error:
        raise RunError(f"{path.stem}: {first_line(error)}") from None
    return namespace


def checked(where: str, values: dict, known: dict[str, type], texts: bool = False) -> dict:
    """`values` as the notebook declares them, from texts or strictly; RunError for an unknown name or another type."""
    if unknown := [str(name) for name in values if name not in known]:
        raise RunError(f"{where}: unknown parameter {', '.join(unknown)}. There are: {', '.join(known) or 'none'}.")
    result = {}
    for name, value in values.items():
        type_ = pydantic.TypeAdapter(known[name], config=pydantic.ConfigDict(allow_inf_nan=False))
        if texts and get_origin(known[name]) is list:
            value = [item.strip(" '\"") for item in value.strip(" []").split(",")]
        elif texts and known[name] is str and os.path.exists(file := os.path.expanduser(value)):
            value = os.path.abspath(file)  # notebooks run in their own folder: keep what the caller meant
        try:
            result[name] = type_.validate_python(value, strict=not texts)
        except pydantic.ValidationError as error:
            hint = " (in YAML write 1.0e-2, not 1e-2)" if not texts and isinstance(value, str) else ""
            raise RunError(f"{where}: {name}={value}: {error.errors()[0]['msg']}{hint}.") from None
    return result


def read_profile(path: Path) -> dict:
    try:
        return dict(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except (OSError, yaml.YAMLError, TypeError, ValueError) as error:
        raise RunError(f"The profile {path} cannot be read, NAME: value in each line: {first_line(error)}") from None


def plan(paths: list[Path], given: list[str], profile: str = "default") -> list[Run]:
    """Check everything that can be checked before a kernel starts; one Run for each notebook."""
    if wrong := [text for text in given if not re.match(r"[^\W\d]\w*=", text)]:
        raise RunError(f"Parameter {wrong[0]!r}: write NAME=VALUE.")
    texts, runs = dict(text.split("=", 1) for text in given), []
    takes = {path: run_cell(path, "parameters", {}).get("__annotations__", {}) for path in paths}
    checked(", ".join(path.stem for path in paths), texts, {name: str for known in takes.values() for name in known})
    for path, known in takes.items():
        file = path.parent / "profiles" / profile / f"{path.stem}.yaml"
        values = checked(file.name, read_profile(file), known) if profile != "default" else {}
        values |= checked(path.stem, {name: texts[name] for name in texts if name in known}, known, texts=True)
        run_cell(path, "check", run_cell(path, "parameters", {}) | values)  # as the notebook will
        runs.append(Run(str(path), values))
    return runs


# ---- running ------------------------------------------------------------------------------------


def memory_of_children() -> int:
    """MB in use by all processes below this one, or the high-water mark of the largest, where Linux tells it.

    What two processes share, such as TensorFlow's code, is counted once: their proportional set sizes add up.
    """
    total = largest = 0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error, OSError, TypeError):
            total += process.memory_full_info().pss if psutil.LINUX else process.memory_info().rss
            peak = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
            largest = max(largest, int(peak[1]) * 1024)
    return max(total, largest) >> 20


def execute(run: Run, out: Path) -> None:
    """Run one notebook into `out`; never raises for what a notebook does, fills in `run`."""

    def note(**_):
        run.peak_mb = max(run.peak_mb, memory_of_children())

    def watch():
        while not over.wait(0.5):  # not at once: a child that is not yet the kernel has this process's memory
            note()

    source, start, over = Path(run.path), time.monotonic(), threading.Event()
    target = str(out / source.name).replace("{", "{{").replace("}", "}}")  # papermill fills in braces
    style = f"{source.stem:<26} {{bar:24}} {{n_fmt}}/{{total_fmt}} cells  {{elapsed}}"
    bar = {"bar_format": style, "leave": False, "disable": None}  # on a terminal only
    settings = {"kernel_name": "python3", "cwd": source.parent, "start_timeout": 120, "on_cell_executed": note}
    settings["extra_arguments"] = ["--IPKernelApp.log_level=40"]  # no remarks about the transport
    threading.Thread(target=watch, daemon=True).start()
    run.status = "failed"
    try:
        papermill.execute_notebook(source, target, run.parameters, progress_bar=bar, **settings)
        run.status = "ok"
    except KeyboardInterrupt:
        run.status = "interrupted"
    except papermill.PapermillExecutionError as error:
        run.error = f"cell [{error.exec_count}]: {error.ename}: {first_line(error.evalue)}"
    except DeadKernelError:
        used = f"{run.peak_mb} MB of this machine's {psutil.virtual_memory().total >> 20} MB"
        run.error = f"the kernel died, most often for lack of memory: it had used {used}"
    except Exception as error:
        run.error = f"{type(error).__name__}: {first_line(error)}"
    over.set()
    run.seconds, run.date = round(time.monotonic() - start, 1), time.strftime("%Y-%m-%d")


def read_results(path: Path) -> dict[str, Run]:
    """How the last run of every notebook went, by its name. Of a damaged file: nothing, and a line."""
    try:
        return RESULTS.validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        if path.exists():
            print(f"{path} is damaged and made anew: {first_line(error)}", flush=True)
        return {}


def run_all(runs: list[Run], out: Path, results: dict[str, Run]) -> None:
    """Run the notebooks one after the other, and note each in `results` and in results.json.

    Prints a table that grows by a line for each. Only Ctrl-C ends it early.
    """
    if runs:
        print(f"{'notebook':<26}  {'status':<11}  {'seconds':>7}  {'peak MB':>7}", flush=True)
    for run in runs:
        name, new = Path(run.path).stem, out / "results.json.new"  # whole, before it gets its name
        execute(run, out)
        results[name] = run
        new.write_bytes(RESULTS.dump_json(results, indent=1))
        new.replace(out / "results.json")
        print(f"{name:<26}  {run.status:<11}  {run.seconds:7.0f}  {run.peak_mb:7d}", flush=True)
        if run.error:
            print(f"      {run.error}\n      what it did until then: {out / name}.ipynb", flush=True)
        if run.status == "interrupted":
            raise KeyboardInterrupt


def options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NOTEBOOK", help="number, name or path; default: all of the series")
    parser.add_argument("-p", nargs="*", action="extend", metavar="NAME=VALUE", default=[], help="parameters")
    parser.add_argument("--profile", choices=["default", "full"], default="default")
    parser.add_argument("--series", type=Path, default=REPOSITORY / "notebooks", help="folder of the notebooks")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "build", help="folder of the results; default: build")
    parser.add_argument("--html-only", action="store_true", help="run nothing, only make the pages")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    chosen, runs = options(arguments), []
    out, series = chosen.out.absolute(), chosen.series.absolute()
    try:
        paths = find_notebooks(series, chosen.names)
        runs = [] if chosen.html_only else plan(paths, chosen.p, chosen.profile)
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / ".lock").acquire(timeout=0):
            results = read_results(out / "results.json")
            run_all(runs, out, results)
            return int(make_pages(series, out, results) != 0 or any(run.status != "ok" for run in runs))
    except (RunError, Timeout, OSError) as error:
        busy = f"another run writes to {out}: wait for it, or choose another folder with --out"
        print(f"error: {busy if isinstance(error, Timeout) else error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        left = " ".join(Path(run.path).stem for run in runs if run.status != "ok")
        print(f'Interrupted. What is finished is kept; go on with NB="{left}" (and the same PARAMS).')
        return 130


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ.update(TQDM_DISABLE="1", JUPYTER_PREFER_ENV_PATH="1")
    sys.exit(main())
