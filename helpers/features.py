"""Images -> features: streamed in batches, cached on disk, resumed after an interruption."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import sys
import tempfile
from pathlib import Path

import filelock
import keras
import numpy as np
import platformdirs
from tqdm import tqdm

from helpers.assets import file_digest, progress_off, write_atomically
from helpers.images import check_images

CHUNK = 1024  # images between two notes of how far the work has come


def cache_folder() -> Path:
    """Where features are kept: $HELPERS_CACHE, or this project's folder in the user's cache."""
    return Path(os.environ.get("HELPERS_CACHE") or platformdirs.user_cache_path("transfer-learning-notebooks"))


def extract(model: keras.Model, images: np.ndarray, batch_size: int = 32, cache: bool = True) -> np.ndarray:
    """Features of `images` at the output of `model`, in inference mode.

    images: uint8, (n, height, width, 3), RGB, 0-255. Returns float32, (n, *model.output_shape[1:]).
    Streams in batches of 32 (measured fastest on CPU) into a file in cache_folder(), which is then
    mapped into memory read-only: memory does not grow with n. A second call with the same architecture,
    weights and images reads the file, an interrupted one goes on where it stopped, and two processes do
    the work once. A damaged file is computed anew, a folder that is not writable or full is done
    without; both are said on stderr. Raises ValueError for other dtypes, and for shapes that the model
    does not take.
    """
    check_images(images)
    expected = tuple(model.input_shape[1:])
    if images.shape[1:] != expected:
        raise ValueError(f"the model takes images of shape {expected}, not {images.shape[1:]}: use images.resize")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    with tqdm(total=len(images), desc=model.name, unit="image", leave=False, disable=progress_off()) as bar:
        if cache and len(images):
            try:
                features = _from_folder(model, images, batch_size, bar)
                bar.refresh()  # quick work would end before the bar's first redraw
                return features
            except OSError as error:
                reason = error.strerror or error
                print(f"features are not cached: {cache_folder()} cannot be written ({reason})", file=sys.stderr)
                bar.reset()
        features = _compute(model, images, batch_size, bar)
        bar.refresh()
        return features


def _from_folder(model: keras.Model, images: np.ndarray, batch_size: int, bar: tqdm) -> np.ndarray:
    """The features by way of the cache, under a lock of their own. Raises OSError where it cannot be used."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass  # the folder can be written
    name = re.sub(r"_\d+$", "", model.name)  # without Keras's running number
    path = folder / f"{name}-{len(images)}-{_fingerprint(model, images)}.npy"
    with filelock.FileLock(path.with_suffix(".lock")):
        features = _finished(path)
        if features is None:
            _fill(path, model, images, batch_size, bar)
            features = np.load(path, mmap_mode="r", allow_pickle=False)
    return features


def _finished(path: Path) -> np.ndarray | None:
    """The features in `path` if they are whole; None, with a word on stderr, if they are damaged."""
    note = path.with_suffix(".json")
    if not (path.exists() and note.exists()):
        return None
    try:
        if json.loads(note.read_text())["sha256"] == file_digest(path):
            return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, KeyError, TypeError):
        pass
    print(f"the cached features {path.name} are damaged: computing them again", file=sys.stderr)
    note.unlink()
    return None


def _fill(path: Path, model: keras.Model, images: np.ndarray, batch_size: int, bar: tqdm) -> None:
    """Write the features to `path`, chunk by chunk beside it, going on from an interrupted run.

    Plain writes instead of a memory map: what is written leaves this process's memory, and a full disk
    is an OSError rather than the end of the process.
    """
    partial, progress = path.with_suffix(".partial"), path.with_suffix(".progress")
    shape = (len(images), *model.output_shape[1:])
    chunk_bytes = CHUNK * 4 * math.prod(shape[1:])
    partial.touch()
    with open(partial, "r+b") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        first, digests = file.tell(), []
        for digest in _digests(progress):
            if hashlib.sha256(file.read(chunk_bytes)).hexdigest() != digest:
                break
            digests.append(digest)
        file.seek(first + len(digests) * chunk_bytes)
        done = min(len(digests) * CHUNK, len(images))
        bar.update(done)
        for start in range(done, len(images), CHUNK):
            chunk = _compute(model, images[start : start + CHUNK], batch_size, bar)
            file.write(chunk)
            file.flush()
            digests.append(hashlib.sha256(chunk).hexdigest())
            write_atomically(progress, json.dumps({"chunks": digests}))
    note = {"sha256": file_digest(partial), "shape": shape, "model": model.name}
    write_atomically(path.with_suffix(".json"), json.dumps(note))
    os.replace(partial, path)
    progress.unlink()


def _digests(progress: Path) -> list[str]:
    """SHA-256 of every chunk that an interrupted run has finished."""
    try:
        return list(json.loads(progress.read_text())["chunks"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _compute(model: keras.Model, images: np.ndarray, batch_size: int, bar: tqdm) -> np.ndarray:
    """Features of `images`, moving `bar` on by one per image."""
    features = np.empty((len(images), *model.output_shape[1:]), np.float32)
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        features[start : start + batch_size] = model.predict_on_batch(batch)
        bar.update(len(batch))
    return features


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
