"""Downloads against a local web server that behaves as the worst of them do."""

import hashlib
import io
import resource
import shutil
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from helpers import assets, weights
from helpers.assets import FileError, Unreachable, download, fetch
from helpers.images import ImageError, read_images

CONTENT = np.random.default_rng(0).bytes(300_000)
DIGEST = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Answers /name with the method `name`, and notes what was asked for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Range")))
        self.close_connection = True
        try:
            getattr(self, self.path.strip("/").split("/")[0].split("?")[0].partition(".")[0])()
        except (BrokenPipeError, ConnectionResetError):
            pass

    def log_message(self, *args):
        pass

    def answer(self, content, status=200, length=True, **headers):
        self.send_response(status)
        self.send_header("Connection", "close")
        if length:
            self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(content)

    def good(self):
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        if start >= len(CONTENT):
            return self.answer(b"", 416)
        self.answer(CONTENT[start:], 206 if self.headers.get("Range") else 200)

    def no_ranges(self):
        self.answer(CONTENT)

    def no_length(self):
        self.answer(CONTENT, length=False)

    def other(self):
        self.answer(b"another file")

    def missing(self):
        self.answer(b"<html>not here</html>", 404)

    def broken(self):
        self.answer(b"", 503)

    def moved(self):
        self.answer(b"", 302, Location="/good")

    def circle(self):
        self.answer(b"", 302, Location="/circle")

    def to_file(self):
        self.answer(b"", 302, Location="file:///etc/hostname")

    def cut(self):
        """The first time the connection breaks after 100,000 bytes; afterwards all is well."""
        if len([path for path, _ in self.server.asked if path == "/cut"]) > 1:
            return self.good()
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:100_000])

    def cut_chunks(self):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"1000\r\n" + CONTENT[:0x1000] + b"\r\n1000\r\nabc")

    def stalled(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:100_000])
        self.server.closing.wait(20)

    def trickle(self):
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        for byte in CONTENT:
            if self.server.closing.wait(0.05):
                break
            self.wfile.write(bytes((byte,)))

    def slow_headers(self):
        for byte in b"HTTP/1.1 200 OK\r\n" + b"X-Padding: padding\r\n" * 99:
            if self.server.closing.wait(0.1):
                break
            self.wfile.write(bytes((byte,)))

    def picture(self):
        self.answer(PNG, Content_Type="image/png")

    def octets(self):
        self.answer(PNG, Content_Type="application/octet-stream")

    def page(self):
        self.answer(b"<html><img src='/picture'></html>", Content_Type="text/html; charset=utf-8")

    def no_picture(self):
        self.answer(b"this is text", Content_Type="image/png")

    def huge(self):
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.send_header("Content-Length", str(10**12))
        self.end_headers()
        self.wfile.write(PNG)
        self.server.closing.wait(20)

    def endless(self):
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.end_headers()
        while not self.server.closing.is_set():
            self.wfile.write(bytes(1 << 16))


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((20, 30, 3), 99, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


PNG = png()


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads, server.asked, server.closing = True, [], threading.Event()
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "weights.h5"


def kept(path) -> list[str]:
    return sorted(p.name for p in path.parent.iterdir())


# ---- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["good", "no_ranges", "no_length", "moved"])
def test_whole_file(server, path, name):
    assert download(f"{server.url}/{name}", path, DIGEST) == path
    assert path.read_bytes() == CONTENT and kept(path) == ["weights.h5"]


def test_file_that_is_there_is_not_fetched(server, path):
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    download(f"{server.url}/good", path, DIGEST)
    assert server.asked == []


def test_wrong_hash(server, path):
    with pytest.raises(FileError, match="is not the expected file .+ Nothing was kept: try again") as caught:
        download(f"{server.url}/other", path, DIGEST)
    assert not isinstance(caught.value, Unreachable) and kept(path) == []


@pytest.mark.parametrize(("name", "sentence"), [
    ("missing", "/missing answered with HTTP status 404: try again, or copy the file to .+weights.h5"),
    ("broken", "/broken answered with HTTP status 503"),
    ("circle", r"/circle cannot be reached, or the connection broke \(TooManyRedirects\)"),
    ("to_file", r"/to_file cannot be reached, or the connection broke \(InvalidSchema\)"),
])  # fmt: skip
def test_refusals(server, path, name, sentence):
    with pytest.raises(Unreachable, match=sentence):
        download(f"{server.url}/{name}", path, DIGEST)
    assert kept(path) == []


def test_nobody_listens(path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/x"
        with pytest.raises(Unreachable, match="cannot be reached, or the connection broke"):
            download(url, path, DIGEST)
    assert kept(path) == []


def test_no_such_host(path):
    with pytest.raises(Unreachable, match="cannot be reached"):
        download("http://nowhere.invalid/x", path, DIGEST)


def test_cut_connection_is_continued(server, path):
    with pytest.raises(Unreachable, match=r"/cut cannot be reached, or the connection broke .+: try again"):
        download(f"{server.url}/cut", path, DIGEST)
    assert kept(path) == ["weights.h5.part"]
    assert path.with_name("weights.h5.part").read_bytes() == CONTENT[:100_000]
    download(f"{server.url}/cut", path, DIGEST)
    assert path.read_bytes() == CONTENT and kept(path) == ["weights.h5"]
    assert server.asked == [("/cut", None), ("/cut", "bytes=100000-")]


def test_cut_chunks(server, path):
    with pytest.raises(Unreachable, match="the connection broke"):
        download(f"{server.url}/cut_chunks", path, DIGEST)
    assert not path.exists()


@pytest.mark.parametrize("part", [b"of another version" * 99, CONTENT + b"too long", b"x" * len(CONTENT)])
def test_part_of_another_version_is_thrown_away(server, path, part):
    path.parent.mkdir()
    path.with_name("weights.h5.part").write_bytes(part)
    download(f"{server.url}/good", path, DIGEST)
    assert path.read_bytes() == CONTENT and kept(path) == ["weights.h5"]
    assert [asked for _, asked in server.asked] == [f"bytes={len(part)}-", None]


def test_part_that_is_whole_is_taken(server, path):
    path.parent.mkdir()
    path.with_name("weights.h5.part").write_bytes(CONTENT)
    download(f"{server.url}/good", path, DIGEST)
    assert path.read_bytes() == CONTENT and len(server.asked) == 1


def test_server_without_ranges_starts_over(server, path):
    path.parent.mkdir()
    path.with_name("weights.h5.part").write_bytes(CONTENT[:1000])
    download(f"{server.url}/no_ranges", path, DIGEST)
    assert path.read_bytes() == CONTENT


def test_server_that_never_answers(path):
    """Accepts the connection and says nothing: given up within 10 s, with the time limits as they are."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        with pytest.raises(Unreachable, match="did not answer in time: try again, or copy the file to"):
            download(f"http://127.0.0.1:{silent.getsockname()[1]}/x", path, DIGEST)
        assert time.monotonic() - start < 10
    assert kept(path) == []


def test_headers_that_trickle(server, path):
    """Each byte arrives in time, their sum does not: the limits of single reads do not see it."""
    start = time.monotonic()
    with pytest.raises(Unreachable, match="did not answer in time"):
        download(f"{server.url}/slow_headers", path, DIGEST)
    assert time.monotonic() - start < 10


def test_body_that_trickles(server, path, monkeypatch):
    monkeypatch.setattr(assets, "WINDOW_S", 0.5)
    with pytest.raises(Unreachable, match="did not answer in time"):
        download(f"{server.url}/trickle", path, DIGEST)


def test_body_that_stalls_is_kept_for_later(server, path, monkeypatch):
    monkeypatch.setattr(assets, "SILENCE_S", 0.5)
    with pytest.raises(Unreachable, match="did not answer in time"):
        download(f"{server.url}/stalled", path, DIGEST)
    assert path.with_name("weights.h5.part").read_bytes() == CONTENT[:100_000]


def test_disk_that_fills_up(server, path):
    """The system refuses to let the file grow, as a full disk does; what was written is removed."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(FileError, match="weights.h5.part cannot be written: File too large") as caught:
            download(f"{server.url}/good", path, DIGEST)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not isinstance(caught.value, Unreachable) and kept(path) == []


def test_disk_without_room_is_seen_beforehand(server, path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    with pytest.raises(FileError, match="cannot be written: 0 MB are needed, more than the disk has left"):
        download(f"{server.url}/good", path, DIGEST)
    assert kept(path) == []


def test_folder_that_cannot_be_made(server, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileError, match="cannot be written: "):
        download(f"{server.url}/good", tmp_path / "file" / "weights.h5", DIGEST)
    assert server.asked == []


def test_two_at_once_fetch_once(server, path):
    threads = [threading.Thread(target=download, args=(f"{server.url}/good", path, DIGEST)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() == CONTENT and len(server.asked) == 1


def test_progress_is_shown(server, path, monkeypatch, capsys):
    monkeypatch.delenv("HELPERS_PROGRESS", raising=False)
    download(f"{server.url}/good", path, DIGEST)
    shown = capsys.readouterr().err
    assert "weights.h5: 100%" in shown and "300k/300k" in shown


# ---- ResNet50's weights -------------------------------------------------------------------------


@pytest.fixture
def host(server, tmp_path, monkeypatch):
    """Makes the official address that of the local server: host("good")."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(weights, "_RESNET50_DIGEST", DIGEST)
    return lambda name: monkeypatch.setattr(weights, "_RESNET50_URL", f"{server.url}/{name}")


def test_resnet50_is_fetched_into_the_keras_cache(host, server, tmp_path):
    host("good")
    file = weights.resnet50(download_allowed=True)
    assert file == tmp_path / "models" / "resnet50_weights_tf_dim_ordering_tf_kernels.h5"
    assert file.read_bytes() == CONTENT
    assert weights.resnet50() == file and len(server.asked) == 1


def test_resnet50_without_leave_asks_nobody(host, server):
    host("good")
    with pytest.raises(weights.WeightsUnavailable, match="no download was asked for"):
        weights.resnet50()
    assert server.asked == []


def test_resnet50_out_of_reach_has_a_substitute(host):
    host("missing")
    with pytest.raises(weights.WeightsUnavailable, match="404"):
        weights.resnet50(download_allowed=True)


def test_resnet50_of_wrong_content_has_none(host):
    host("other")
    with pytest.raises(FileError, match="is not the expected file") as caught:
        weights.resnet50(download_allowed=True)
    assert not isinstance(caught.value, weights.WeightsUnavailable)


def test_weights_ahead_of_time(host, server, capsys):
    host("cut")
    assert weights.main() == 1
    assert capsys.readouterr().err.startswith(f"error: {server.url}/cut cannot be reached")
    assert weights.main() == 0
    said = capsys.readouterr().out
    assert "ResNet50: official ImageNet weights in " in said and "EfficientNet-Lite0: " not in said.splitlines()[-1]
    assert [asked for _, asked in server.asked] == [None, "bytes=100000-"]


# ---- pictures -----------------------------------------------------------------------------------


def only(url):
    ((name, found),) = read_images(url)
    return name, found


@pytest.mark.parametrize("address", ["picture", "octets", "picture/cat.png?size=large"])
def test_picture(server, address):
    name, found = only(f"{server.url}/{address}")
    assert found.shape == (20, 30, 3) and (found == 99).all()
    assert name == address.split("?")[0].rpartition("/")[2]


@pytest.mark.parametrize(("address", "sentence"), [
    ("page", "/page is of type text/html, not image: give the address of the image itself"),
    ("no_picture", "/no_picture is not an image that can be read"),
    ("missing", "/missing answered with HTTP status 404: check the address and the network"),
    ("huge", "/huge is larger than 50 MB"),
    ("endless", "/endless is larger than 50 MB"),
])  # fmt: skip
def test_no_picture(server, address, sentence):
    _, problem = only(f"{server.url}/{address}")
    assert isinstance(problem, ImageError) and sentence in str(problem)


def test_picture_that_takes_too_long(server, monkeypatch):
    monkeypatch.setattr(assets, "FETCH_S", 0.5)
    start = time.monotonic()
    with pytest.raises(Unreachable, match="did not answer in time"):
        fetch(f"{server.url}/trickle", 10**6, "image")
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("address", ["ftp://host/cat.jpg", "file:///etc/hostname", "s3://bucket/cat.jpg"])
def test_other_addresses_are_refused(address):
    assert "only http:// and https:// addresses are fetched" in str(only(address)[1])


@pytest.mark.parametrize("address", ["http://", "https://nowhere.invalid/cat.jpg", "http://[bad/x.png"])
def test_bad_addresses(address):
    assert "cannot be reached" in str(only(address)[1])
