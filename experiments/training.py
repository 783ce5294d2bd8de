"""Trainings of the recorded programs: interrupted ones go on, mixed precision is tested exactly."""

from __future__ import annotations

import hashlib
import json
import mmap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

import helpers  # noqa: F401  (before Keras, which it quiets)

# isort: split
import keras
import numpy as np

from helpers.assets import file_digest, write_atomically
from helpers.features import cache_folder

# --- heads ---


def classifier_head(input_shape: tuple, classes: int, hidden: tuple = (), dropout: float = 0) -> keras.Sequential:
    """A softmax over `classes` for features of `input_shape` (without the batch axis), which it flattens.

    One ReLU layer per entry of `hidden` and dropout come before it.
    """
    between = [keras.layers.Dense(units, activation="relu") for units in hidden]
    between += [keras.layers.Dropout(dropout)] if dropout else []
    softmax = keras.layers.Dense(classes, activation="softmax")
    return keras.Sequential([keras.Input(input_shape), keras.layers.Flatten(), *between, softmax], name="head")


# --- epochs that survive a kill ---


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


def name_of(program: str, *settings) -> str:
    """A name of its own for the training of a program with these settings."""
    return f"{program}_{hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]}"


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
    write_atomically(note, json.dumps({"file": file.name, "sha256": file_digest(file), "curves": curves}))
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


# --- what is trained ---


class Batches(keras.utils.PyDataset):
    """Inputs and labels in shuffled batches for `fit`, taken from memory or disk one batch at a time.

    inputs: (n, ...), for instance what `extract` returns, which then stays on disk; `fit` itself would
    first copy all of it into memory. The order depends on `seed` and the epoch alone, so that an
    interrupted training can go on: `start(epoch)`, then `fit(..., shuffle=False)`. change(inputs, random),
    if given, is applied to every batch, for instance to move and turn the images; `random` is decided
    by seed, epoch and batch.
    """

    def __init__(
        self,
        inputs: np.ndarray,
        labels: np.ndarray,
        batch_size: int,
        seed: int = 0,
        change: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None,
    ) -> None:
        super().__init__()
        if len(inputs) != len(labels):
            raise ValueError(f"{len(inputs)} inputs need as many labels, not {len(labels)}")
        self.inputs, self.labels, self.batch_size, self.seed, self.change = inputs, labels, batch_size, seed, change
        owner = inputs
        while isinstance(owner, np.ndarray):
            owner = owner.base
        self.mapped = owner if isinstance(owner, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED") else None
        self.start(0)

    def start(self, epoch: int) -> None:
        """Go to the beginning of `epoch`, counted from 0."""
        self.epoch = epoch
        self.order = np.random.default_rng((self.seed, epoch)).permutation(len(self.labels))

    def on_epoch_end(self) -> None:
        self.start(self.epoch + 1)

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = np.sort(self.order[index * self.batch_size : (index + 1) * self.batch_size])
        inputs = self.inputs[chosen]
        if self.mapped is not None:
            self.mapped.madvise(mmap.MADV_DONTNEED)  # else all that was read would count as this process's memory
        if self.change:
            inputs = self.change(inputs, np.random.default_rng((self.seed, self.epoch, index)))
        return inputs, self.labels[chosen]


@contextmanager
def computing_in(policy: str) -> Iterator[None]:
    """Layers that are built inside this block compute with the dtype policy `policy`, for instance "mixed_bfloat16"."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def in_float32(model: keras.Model) -> keras.Model:
    """The same network with the same weights and the same frozen layers, computing in float32; not compiled.

    For networks that were trained in mixed precision (keras.config.set_dtype_policy), to be tested exactly.
    """

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()  # plain operations, such as a flip, have no precision of their own
        return type(layer).from_config(config | {"dtype": "float32"} if "dtype" in config else config)

    twin = keras.models.clone_model(model, clone_function=copy, recursive=True)
    twin.set_weights(model.get_weights())
    return twin
