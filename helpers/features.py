"""Images -> features: in chunks, cached on disk, resumed after an interruption, by one process or several."""

import io
import json
import math
import os
import re
import shutil
import sys
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import filelock
import joblib
import keras
import numpy as np
import platformdirs
import tensorflow as tf
from tqdm import tqdm

from helpers.assets import write_atomically
from helpers.images import check_images

CHUNK = 256  # images that are computed, and in several processes handed over, at a time: whole batches
BATCH = 32


def cache_folder() -> Path:
    """Where features are kept: $HELPERS_CACHE, or this project's folder in the user's cache."""
    return Path(os.environ.get("HELPERS_CACHE") or platformdirs.user_cache_path("transfer-learning-notebooks"))


def extract(model: keras.Model, images: np.ndarray, cache: bool = True) -> np.ndarray:
    """Features of `images` at the output of `model`, in inference mode.

    images: uint8, (n, height, width, 3), RGB, 0-255. Returns float32, (n, *model.output_shape[1:]).
    Computes chunks of 256 images in batches of 32, each into a file of its own in cache_folder(); at the end
    they become one file, mapped into memory read-only: memory does not grow with n. A second call with the
    same architecture, weights and images reads the file, an interrupted one goes on with the chunk where it
    stopped, and of two processes one waits for the other. Inside `joblib.parallel_config("loky", n_jobs=2)`
    the chunks are shared out to so many processes. A folder that is not writable or full is done without,
    which is said on stderr. Raises ValueError for other dtypes, and for shapes that the model does not take.
    """
    check_images(images)
    expected = tuple(model.input_shape[1:])
    if images.shape[1:] != expected:
        raise ValueError(f"the model takes images of shape {expected}, not {images.shape[1:]}: use images.resize")
    if cache and len(images):
        try:
            return _from_folder(model, images)
        except OSError as error:
            print(f"features are not cached in {cache_folder()}: {error.strerror or error}", file=sys.stderr)
    return _compute(model, images)


def _from_folder(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """The features by way of the cache, under a lock of their own. Raises OSError where it cannot be used."""
    shape = (len(images), *model.output_shape[1:])
    name = re.sub(r"_\d+$", "", model.name)  # without Keras's running number
    path = cache_folder() / f"{name}-{len(images)}-{_fingerprint(model, images)}.npy"
    folder = path.with_suffix(".chunks")
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(path.with_suffix(".lock")):
        if not _is_whole(path, _header(shape), shape):
            folder.mkdir(exist_ok=True)
            files = _compute_chunks(model, images, folder)
            with open(folder / "joined", "wb") as joined:
                joined.write(_header(shape))
                for file in files:
                    joined.write(file.read_bytes())
            os.replace(folder / "joined", path)
            shutil.rmtree(folder, ignore_errors=True)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _header(shape: tuple[int, ...]) -> bytes:
    """How a .npy file of float32 numbers in this shape begins."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return header.getvalue()


def _is_whole(path: Path, header: bytes, shape: tuple[int, ...]) -> bool:
    """Whether the file begins with `header` and holds as many numbers as `shape` after it."""
    if not path.is_file() or path.stat().st_size != len(header) + 4 * math.prod(shape):
        return False
    with open(path, "rb") as file:
        return file.read(len(header)) == header


def _compute_chunks(model: keras.Model, images: np.ndarray, folder: Path) -> list[Path]:
    """One file of raw float32 numbers per chunk, in order; those that are there already are kept."""
    chunks = {folder / f"{i}-{CHUNK}": images[i : i + CHUNK] for i in range(0, len(images), CHUNK)}
    shape = model.output_shape[1:]
    missing = [file for file, chunk in chunks.items() if not _is_whole(file, b"", (len(chunk), *shape))]
    workers, network = joblib.effective_n_jobs(None), model
    if workers > 1:  # other processes get the model as a file
        network = folder / f"{os.getpid()}.keras"
        model.save(network)
    threads = max(1, joblib.cpu_count() // workers)
    tasks = (joblib.delayed(_write_chunk)(network, threads, chunks[file], file) for file in missing)
    done = joblib.Parallel(return_as="generator_unordered", max_nbytes=None)(tasks)
    for _ in tqdm(done, desc=model.name, total=len(missing), unit="chunk", leave=False):
        pass
    return list(chunks)


def _write_chunk(network: keras.Model | Path, threads: int, images: np.ndarray, file: Path) -> None:
    """Write the features of `images` to `file`."""
    model = _loaded(network, threads) if isinstance(network, Path) else network
    write_atomically(file, _compute(model, images).tobytes())


@lru_cache(maxsize=1)
def _loaded(file: Path, threads: int) -> keras.Model:
    """The model in `file`, once per process; TensorFlow takes `threads` threads."""
    with suppress(RuntimeError):  # a process that has computed already keeps its threads
        tf.config.threading.set_intra_op_parallelism_threads(threads)
    return keras.models.load_model(file, compile=False)


def _compute(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Features of `images`, batch by batch."""
    features = np.empty((len(images), *model.output_shape[1:]), np.float32)
    for start in range(0, len(images), BATCH):
        batch = slice(start, start + BATCH)
        features[batch] = model.predict_on_batch(images[batch])
    return features


def _fingerprint(model: keras.Model, images: np.ndarray) -> str:
    """Changes with the architecture, any weight and any pixel; not with automatic layer names."""
    config = json.dumps(model.get_config(), sort_keys=True, default=str)
    for number, layer in enumerate(model.layers):
        config = config.replace(f'"{layer.name}"', f'"layer {number}"')
    weights = [weight.numpy() for weight in model.weights]
    return joblib.hash((config.replace(f'"{model.name}"', '"model"'), weights, images), coerce_mmap=True)
