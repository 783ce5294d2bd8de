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

from helpers.assets import FileError


class Records:
    """The runs of one experiment in a JSON file, each with its settings and its results.

    path: the file; the folder must exist. `what`: one sentence on the experiment. Raises FileError when
    the file is there and is not such a record.
    """

    def __init__(self, path: Path | str, what: str) -> None:
        self.path, self.what = Path(path), what
        self.runs  # noqa: B018  (a damaged file is refused before hours of work)

    @property
    def runs(self) -> list[dict]:
        """All runs recorded so far."""
        if not self.path.exists():
            return []
        try:
            runs = json.loads(self.path.read_text(encoding="utf-8"))["runs"]
            if isinstance(runs, list) and all(isinstance(run, dict) for run in runs):
                return runs
            reason = "its 'runs' are not a list of runs"
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = error
        raise FileError(f"{self.path} is not a record of runs ({reason}): move it away, and call again")

    def find(self, **settings) -> list[dict]:
        """The recorded runs that have these settings."""
        return [run for run in self.runs if settings.items() <= run.items()]

    def run(self, measure: Callable[[], dict], **settings) -> dict:
        """The recorded run with `settings`; where there is none, what `measure()` returns, recorded."""
        found = self.find(**settings)
        if found:
            return found[0]
        start = time.perf_counter()
        run = {**settings, **measure()}
        run.setdefault("seconds", round(time.perf_counter() - start, 1))
        run["peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        with filelock.FileLock(f"{self.path}.lock"):
            self._write([*self.runs, run])
        print(", ".join(f"{k} {v}" for k, v in run.items() if isinstance(v, int | float | str)), flush=True)
        return run

    def _write(self, runs: list[dict]) -> None:
        """The whole file anew, one run a line, beside the old one, which it then replaces."""
        head = {"what": self.what, "made_by": f"{self.path.stem}.py", "date": date.today().isoformat()}
        head["machine"] = f"{os.cpu_count()} cores, {platform.machine()}, {_accelerator()}"
        head["versions"] = {"python": platform.python_version(), "tensorflow": tf.__version__}
        head["versions"]["keras"] = keras.__version__
        lines = ",\n".join(json.dumps(run, ensure_ascii=False) for run in runs)
        temporary = self.path.with_name(self.path.name + ".tmp")
        temporary.write_text(json.dumps(head)[:-1] + ', "runs": [\n' + lines + "\n]}\n", encoding="utf-8")
        os.replace(temporary, self.path)
        Path(f"{self.path}.lock").unlink(missing_ok=True)


def _accelerator() -> str:
    return "GPU" if tf.config.list_physical_devices("GPU") else "no GPU"
