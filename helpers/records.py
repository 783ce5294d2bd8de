"""Long experiments: every run is written as it ends, and an interrupted one goes on where it stopped."""

from __future__ import annotations

import hashlib
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

from helpers.features import cache_folder, write_atomically
from helpers.files import FileError, file_digest


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


def train_by_epochs(
    name: str, build: Callable[[], keras.Model], train_epoch: Callable[[keras.Model, int], dict], epochs: int, seed: int
) -> tuple[keras.Model, dict]:
    """A training that survives a kill: (the trained model, its curves with the seconds of each epoch).

    build() -> compiled model; it is called with the seed set, so it must not do what happens only sometimes, such as
    building another network for features that may be there already. train_epoch(model, epoch) trains one pass and
    returns numbers. After each epoch, the model with its optimizer goes to the cache folder under `name`, and the
    next one starts from that file with random numbers that depend on seed and epoch alone: interrupted or not, the
    training is the same. Delete what it kept with `forget(name)`. A damaged file is trained anew.
    """
    folder = cache_folder() / "training" / name
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / "lock"):
        model_file, curves = _last_epoch(folder)
        for epoch in range(len(curves.get("seconds", [])), epochs):
            keras.utils.clear_session()
            keras.utils.set_random_seed(1000 * (seed + 1) + epoch)
            model = keras.models.load_model(model_file) if model_file else build()
            start = time.perf_counter()
            numbers = train_epoch(model, epoch)
            numbers["seconds"] = round(time.perf_counter() - start, 1)
            curves = {key: [*curves.get(key, []), value] for key, value in numbers.items()}
            model_file = _keep_epoch(folder, epoch, model, curves)
            print(f"{name}, epoch {epoch + 1}/{epochs}:", *(f"{k} {v:.4g}" for k, v in numbers.items()), flush=True)
        keras.utils.clear_session()
        return keras.models.load_model(model_file), curves


def forget(name: str) -> None:
    """Delete what `train_by_epochs` kept under `name`, once its result is recorded."""
    folder = cache_folder() / "training" / name
    for file in folder.glob("*"):
        file.unlink()
    if folder.exists():
        folder.rmdir()


def _keep_epoch(folder: Path, epoch: int, model: keras.Model, curves: dict) -> Path:
    """The model and, once it is whole, the note that names it; then the epoch before can go."""
    file, note = folder / f"epoch_{epoch + 1}.keras", folder / "note.json"
    model.save(file)
    write_atomically(note, {"file": file.name, "sha256": file_digest(file), "curves": curves})
    for old in folder.glob("epoch_*.keras"):
        if old != file:
            old.unlink()
    return file


def _last_epoch(folder: Path) -> tuple[Path | None, dict]:
    """The model file and curves of the last whole epoch; (None, {}) where there is none."""
    try:
        note = json.loads((folder / "note.json").read_text())
        file = folder / note["file"]
        if file_digest(file) == note["sha256"]:
            return file, note["curves"]
        print(f"{file} is damaged: this training starts anew", flush=True)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None, {}


def sha256_of_weights(model: keras.Model) -> str:
    """A digest of all weights of `model`, to show that two trainings ended in the same place."""
    digest = hashlib.sha256()
    for weight in model.weights:
        digest.update(weight.numpy().tobytes())
    return digest.hexdigest()[:16]
