"""Images -> features: streamed in batches, cached on disk, resumed after an interruption."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

import filelock
import keras
import numpy as np
import platformdirs
from tqdm.auto import tqdm

from helpers.files import file_digest, progress_off
from helpers.pictures import check_images

CHUNK = 1024  # images between two notes of how far the work has come


def cache_folder() -> Path:
    """Where features are kept: $HELPERS_CACHE, or this project's folder in the user's cache."""
    return Path(os.environ.get("HELPERS_CACHE") or platformdirs.user_cache_path("transfer-learning-notebooks"))


def extract(model: keras.Model, images: np.ndarray, batch_size: int = 32, cache: bool = True) -> np.ndarray:
    """Features of `images` at the output of `model`, in inference mode.

    images: uint8, (n, height, width, 3), RGB, 0-255. Returns float32, (n, *model.output_shape[1:]).
    Streams in batches of 32 (measured fastest on CPU; memory does not grow with n) into a file in
    cache_folder(), which is mapped into memory read-only: a second call with the same architecture,
    weights and images reads it, an interrupted one goes on where it stopped, and two processes do the
    work once. A damaged file is computed anew, an unwritable folder is done without; both are said on
    stderr. Raises ValueError for other dtypes, and for shapes that the model does not take.
    """
    check_images(images)
    expected = tuple(model.input_shape[1:])
    if images.shape[1:] != expected:
        raise ValueError(f"the model takes images of shape {expected}, not {images.shape[1:]}: see helpers.data.resize")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    if not cache or len(images) == 0:
        return _compute(model, images, batch_size, np.empty((len(images), *model.output_shape[1:]), np.float32))
    name = f"{model.name}-{len(images)}-{_fingerprint(model, images)}"
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        lock = filelock.FileLock(folder / f"{name}.lock")
    except OSError as error:
        print(f"features are not cached: {cache_folder()} is not writable ({error.strerror})", file=sys.stderr)
        return extract(model, images, batch_size, cache=False)
    with lock:
        return _cached(model, images, batch_size, folder / f"{name}.npy")


def _cached(model: keras.Model, images: np.ndarray, batch_size: int, path: Path) -> np.ndarray:
    """The features in `path`, after making the file if it is missing or damaged. Holds the lock."""
    note = path.with_suffix(".json")  # written last: its presence says that the features are whole
    if note.exists():
        try:
            if json.loads(note.read_text())["sha256"] == file_digest(path):
                return np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, KeyError):
            pass
        print(f"the cached features {path.name} are damaged: computing them again", file=sys.stderr)
        note.unlink()
    partial, progress = path.with_suffix(".partial"), path.with_suffix(".progress")
    shape = (len(images), *model.output_shape[1:])
    done = _resumable(partial, progress, shape)
    features = np.lib.format.open_memmap(partial, "r+" if done else "w+", np.float32, shape)
    for start in range(done, len(images), CHUNK):
        _compute(model, images[start : start + CHUNK], batch_size, features[start : start + CHUNK], start, len(images))
        features.flush()
        _write_atomically(progress, {"done": min(start + CHUNK, len(images))})
    del features
    os.replace(partial, path)
    _write_atomically(note, {"sha256": file_digest(path), "shape": shape, "model": model.name})
    progress.unlink(missing_ok=True)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _resumable(partial: Path, progress: Path, shape: tuple[int, ...]) -> int:
    """How many images of an interrupted run are in `partial`; 0 to start over."""
    try:
        done = int(json.loads(progress.read_text())["done"])
        stored = np.load(partial, mmap_mode="r", allow_pickle=False)
        return done if stored.shape == shape and 0 <= done <= shape[0] else 0
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return 0


def _write_atomically(path: Path, content: dict) -> None:
    """`content` as JSON in `path`; a reader sees the old file or the new one, never half of it."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content))
    os.replace(temporary, path)


def _compute(
    model: keras.Model, images: np.ndarray, batch_size: int, out: np.ndarray, first: int = 0, total: int | None = None
) -> np.ndarray:
    """Fill `out` with the features of `images`, which are number `first` onwards of `total`."""
    total = len(images) if total is None else total
    with tqdm(total=total, initial=first, desc=model.name, unit="image", leave=False, disable=progress_off()) as bar:
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            out[start : start + batch_size] = model.predict_on_batch(batch)
            bar.update(len(batch))
    return out


def _fingerprint(model: keras.Model, images: np.ndarray) -> str:
    """Changes with the architecture, any weight and any pixel; not with automatic layer names."""
    config = json.dumps(model.get_config(), sort_keys=True, default=str)
    for number, layer in enumerate(model.layers):
        config = config.replace(f'"{layer.name}"', f'"layer {number}"')
    digest = hashlib.sha256(config.replace(f'"{model.name}"', '"model"').encode())
    for weight in model.weights:
        digest.update(np.ascontiguousarray(weight.numpy()).tobytes())
    digest.update(repr(images.shape).encode())
    digest.update(np.ascontiguousarray(images))
    return digest.hexdigest()[:24]
