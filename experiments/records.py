"""Long experiments: every run is written as it ends, and an interrupted one goes on where it stopped."""

from __future__ import annotations

import json
import os
import platform
import resource
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import filelock
import keras
import tensorflow as tf

from helpers.assets import FileError, write_atomically

FOLDER = Path(__file__).resolve().parent.parent / "notebooks" / "recorded"
RESERVED = ("settings", "superseded", "peak_mb", "provenance")


class Records:
    """The runs of one experiment in a JSON file: {"what", "program", "runs"}, one run a line.

    A run holds its settings, what was measured, seconds, peak_mb, and: "settings", which of its entries are settings;
    "provenance", the date, the machine and the versions of this run; perhaps "superseded", why it counts no more.
    path: the file; the folder must exist. what: one sentence. program: the file of the program, __file__. Raises
    FileError when the file is there and is not such a record.
    """

    def __init__(self, path: Path | str, what: str, program: str) -> None:
        self.path, self.what, self.program = Path(path), what, Path(program).name
        self.runs  # noqa: B018  (a damaged file is refused before hours of work)

    @property
    def runs(self) -> list[dict]:
        """All runs recorded so far, those that other processes have added included."""
        if not self.path.exists():
            return []
        try:
            runs = json.loads(self.path.read_text(encoding="utf-8"))["runs"]
            if isinstance(runs, list) and all(set(run["settings"]) < set(run) for run in runs):
                return runs
            reason = "its 'runs' are no list of runs with their settings"
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = error
        raise FileError(f"{self.path} is not a record of runs ({reason}): move it away, and call again")

    def find(self, **settings) -> list[dict]:
        """The runs with these settings, and perhaps others; superseded ones left out."""
        wanted = _as_read(settings).items()
        return [run for run in self.runs if "superseded" not in run and wanted <= _settings(run).items()]

    def done(self, **settings) -> dict | None:
        """The run with exactly these settings, if it is recorded and not superseded."""
        wanted = _as_read({"precision": "float32", **settings})
        return next((run for run in self.find(**wanted) if _settings(run) == wanted), None)

    def run(self, measure: Callable[[], dict], **settings) -> dict:
        """The recorded run with exactly `settings`; where there is none, what `measure()` returns, recorded.

        The precision is a setting, "float32" where none is given. "seconds" is how long `measure` took, unless it
        says so itself. Raises ValueError where it returns an entry under the name of a setting.
        """
        settings = {"precision": "float32", **settings}
        if found := self.done(**settings):
            return found
        start = time.perf_counter()
        results = measure()
        if taken := sorted(set(results) & {*settings, *RESERVED}):
            raise ValueError(f"what was measured must not be called {', '.join(taken)}: that has another meaning")
        run = {**settings, "seconds": round(time.perf_counter() - start, 1), **results}
        run["peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        run |= {"settings": list(settings), "provenance": _provenance()}
        with filelock.FileLock(f"{self.path}.lock"):
            if found := self.done(**settings):  # another process was faster
                return found
            self._write([*self.runs, run])
        print(", ".join(f"{k} {v}" for k, v in run.items() if isinstance(v, int | float | str)), flush=True)
        return run

    def _write(self, runs: list[dict]) -> None:
        """The whole file anew, beside the old one, which it then replaces; the lock goes while it is held."""
        lines = ",\n".join(json.dumps(run, ensure_ascii=False) for run in runs)
        head = json.dumps({"what": self.what, "program": self.program}, ensure_ascii=False)
        write_atomically(self.path, f'{head[:-1]}, "runs": [\n{lines}\n]}}\n')
        Path(f"{self.path}.lock").unlink(missing_ok=True)


def _settings(run: dict) -> dict:
    return {name: run[name] for name in run["settings"]}


def _as_read(settings: dict) -> dict:
    """As JSON gives it back: lists for tuples."""
    return json.loads(json.dumps(settings))


def _provenance() -> dict:
    accelerator = "GPU" if tf.config.list_physical_devices("GPU") else "no GPU"
    versions = {"python": platform.python_version(), "tensorflow": tf.__version__, "keras": keras.__version__}
    machine = f"{os.cpu_count()} cores, {platform.machine()}, {accelerator}"
    return {"date": date.today().isoformat(), "machine": machine, "versions": versions}
