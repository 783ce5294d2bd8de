"""Files: downloads from a local web server that behaves as hosts do, each whole or not at all; atomic writes."""

import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest
from bad_input import rows

from helpers import assets, weights
from helpers.assets import FileError, download, fetch, write_atomically
from helpers.images import ImageError, read_images

CONTENT = np.random.default_rng(0).bytes(300_000)
DIGEST = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
PNG = cv2.imencode(".png", np.full((20, 30, 3), 99, np.uint8))[1].tobytes()
WHOLE = {"Content-Length": str(len(CONTENT))}
# path: status, content, headers
ANSWERS = {
    "good": (200, CONTENT, WHOLE),
    "no_length": (200, CONTENT, {}),
    "moved": (302, b"", {"Location": "/good"}),
    "other": (200, b"another file", {}),
    "missing": (404, b"<html>not here</html>", {}),
    "cut": (200, CONTENT[:100_000], WHOLE),
    "stalled": (200, CONTENT[:100_000], WHOLE),
    "image": (200, PNG, {"Content-Type": "image/png"}),
    "octets": (200, PNG, {"Content-Type": "application/octet-stream"}),
    "page": (200, b"<html></html>", {"Content-Type": "text/html; charset=utf-8"}),
    "text": (200, b"this is text", {"Content-Type": "image/png"}),
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.split("?")[0].strip("/").split("/")[0]
        self.server.asked.append(name)
        status, content, headers = ANSWERS[name]
        self.send_response(status)
        for header, value in headers.items():
            self.send_header(header, value)
        self.end_headers()
        self.wfile.write(content)
        if name == "stalled":
            self.server.closing.wait(20)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(assets, "SILENCE_S", 0.5)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads, server.asked, server.closing = True, [], threading.Event()
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("name", ["good", "no_length", "moved"])
def test_whole_file(server, tmp_path, name):
    path = tmp_path / "cache" / "weights.h5"
    assert download(f"{server.url}/{name}", path, DIGEST) == path
    assert path.read_bytes() == CONTENT and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(("given", "sentence"), rows("downloads"))
def test_nothing_is_kept_of_what_is_not_whole(server, tmp_path, given, sentence):
    (tmp_path / "file").touch()
    name, kind = given["name"], getattr(assets, given["error"])
    path = tmp_path / ("file" if name == "good" else "folder") / "weights.h5"
    with pytest.raises(kind, match=f"/{name} .*{sentence}.*: try again, or copy the file to .*weights.h5") as caught:
        download(f"{server.url}/{name}", path, DIGEST)
    assert type(caught.value) is kind and [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["file"]


def test_atomic_write(tmp_path):
    """The old content stays until the new one is whole, and nothing is left of one that failed."""
    path = tmp_path / "record.json"
    write_atomically(path, "é")
    with pytest.raises(OSError, match="full"), assets.atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        raise OSError("full")
    assert path.read_bytes() == "é".encode() and list(tmp_path.iterdir()) == [path]
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


# ---- ResNet50's weights -------------------------------------------------------------------------


@pytest.fixture
def host(server, tmp_path, monkeypatch):
    """Makes the official address that of the local server: host("good")."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(weights, "_RESNET50_DIGEST", DIGEST)
    return lambda name: monkeypatch.setattr(weights, "_RESNET50_URL", f"{server.url}/{name}")


def test_resnet50_is_fetched_into_the_keras_cache_when_asked_for(host, server, tmp_path):
    host("good")
    with pytest.raises(weights.WeightsUnavailable):
        weights.resnet50()
    file = weights.resnet50(download_allowed=True)
    assert file == tmp_path / "models" / weights._RESNET50 and file.read_bytes() == CONTENT
    assert weights.resnet50() == file and server.asked == ["good"]


@pytest.mark.parametrize(("name", "has_substitute"), [("missing", True), ("other", False)])
def test_resnet50_that_cannot_be_had(host, name, has_substitute):
    host(name)
    with pytest.raises(FileError, match=f"/{name} ") as caught:
        weights.resnet50(download_allowed=True)
    assert isinstance(caught.value, weights.WeightsUnavailable) == has_substitute


# ---- images -------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["image", "octets", "image/cat.png?size=large"])
def test_image(server, address):
    ((name, found),) = read_images(f"{server.url}/{address}")
    assert found.shape == (20, 30, 3) and (found == 99).all()
    assert name == address.split("?")[0].rpartition("/")[2]


@pytest.mark.parametrize(("address", "sentence"), rows("addresses of images"))
def test_no_image(server, address, sentence):
    ((_, problem),) = read_images(address if "://" in address else f"{server.url}/{address}")
    assert isinstance(problem, ImageError) and re.search(sentence, str(problem))


def test_too_large(server):
    with pytest.raises(FileError, match="/no_length is larger than 0 MB"):
        fetch(f"{server.url}/no_length", 1000, "image")
    assert len(fetch(f"{server.url}/no_length", 300_000, "image")) == 300_000
