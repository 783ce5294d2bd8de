"""The page to try a model: it answers on this machine only, whatever is sent to it, and goes on living."""

import io
import json
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
import websocket
from bad_input import rows
from PIL import Image
from tiny_model import write

from deploy import predict, serve


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(serve, "SECONDS", 2)
    monkeypatch.setattr(serve.Handler, "timeout", 2)
    running = serve.Server(0, predict.Model(write(tmp_path / "model", refuse_below=0.9)))
    threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


def image(colour, size=(50, 40)):
    Image.new("RGB", size, colour).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


def ask(server, body=None, path="/predict", **headers):
    """Status, headers and content of an answer."""
    request = urllib.request.Request(f"http://127.0.0.1:{server.server_port}{path}", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def raw(server, text, wait=10):
    """What comes back for these bytes, until the connection is closed."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=wait) as connection:
        connection.sendall(text)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def lives(server):
    return ask(server, image("blue"))[0] == 200


def test_an_image_gets_the_answer_of_the_model(server):
    status, headers, content = ask(server, image((20, 250, 30)))
    said = json.loads(content)
    assert status == 200 and said["class"] == "green <b>" and said["refused"] is False
    assert said["probability"] == pytest.approx(1, abs=1e-4)
    assert np.shape(said["evidence"]) == (32, 32) and np.max(said["evidence"]) == 1
    assert headers["Content-Type"] == "application/json" and headers["X-Content-Type-Options"] == "nosniff"


def test_the_page_loads_nothing_from_elsewhere_and_writes_text_only(server):
    status, headers, content = ask(server, path="/")
    assert status == 200 and b"http" not in content and b"innerHTML" not in content
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize("path", ["/../../etc/passwd", "/model.onnx", "/predict?x=/etc/passwd", "/%2e%2e/x"])
def test_no_other_path_is_answered(server, path):
    for body in (None, image("red")):
        status, _, content = ask(server, body, path)
        assert status == 404 and b"root:" not in content
    assert lives(server)


@pytest.mark.parametrize(("given", "sentence"), rows("requests"))
def test_a_wrong_request_gets_one_answer(server, given, sentence):
    answer = raw(server, f"POST /predict HTTP/1.0\r\n{given['head']}\r\n\r\n{given['body']}".encode())
    assert answer.startswith(f"HTTP/1.0 {given['status']} ".encode()), answer[:100]
    assert re.search(sentence, json.loads(answer.partition(b"\r\n\r\n")[2])["error"])
    assert lives(server)


def sent(connection):
    try:
        connection.sendall(b"x")
    except OSError:
        return False
    return True


def test_slow_clients_and_bodies_without_end_are_left(server):
    address = ("127.0.0.1", server.server_port)
    slow = [socket.create_connection(address, timeout=30) for _ in range(10)]
    for connection in slow:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nabc")
    assert lives(server), "ten slow clients must not keep others out"
    start = time.monotonic()
    while any([sent(connection) for connection in slow]):
        assert time.monotonic() - start < 15, "a byte now and then does not help them"
        time.sleep(0.1)
    for _ in range(40):  # more than it serves at a time, gone without a word
        socket.create_connection(address).close()
    assert lives(server)


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PIXEL = "[...document.getElementById('view').getContext('2d').getImageData(240, 240, 1, 1).data]"
CHOOSE = """(async () => {
    const files = new DataTransfer(), chooser = document.getElementById('file');
    files.items.add(new File([new Uint8Array(%s)], 'x.png'));
    chooser.files = files.files;
    await chooser.onchange({target: chooser});
    return document.getElementById('answer').textContent;
})()"""


@pytest.fixture
def evaluate(server, tmp_path):
    """The value of an expression in the page, opened in a headless Chromium, by its DevTools protocol."""
    flags = ["--headless", "--no-sandbox", "--no-first-run", "--remote-allow-origins=*", "--remote-debugging-port=0"]
    command = [CHROMIUM, *flags, f"--user-data-dir={tmp_path}/profile", f"http://127.0.0.1:{server.server_port}/"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as browser:
        address = next(line for line in browser.stderr if "DevTools listening" in line).split("/")[2]
        tabs = json.loads(urllib.request.urlopen(f"http://{address}/json").read())
        url = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
        connection = websocket.create_connection(url, timeout=60)

        def value(expression):
            parameters = {"expression": expression, "returnByValue": True, "awaitPromise": True}
            connection.send(json.dumps({"id": 1, "method": "Runtime.evaluate", "params": parameters}))
            return json.loads(connection.recv())["result"]["result"].get("value")

        yield value
        browser.kill()


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")
def test_the_page_works_in_a_browser(evaluate):
    for _ in range(100):
        if evaluate("document.readyState == 'complete' && !!document.getElementById('file')"):
            break
        time.sleep(0.1)
    assert evaluate(CHOOSE % list(image((20, 250, 30)))) == "green <b>, 100.0 %"
    red, _, blue, _ = evaluate(PIXEL)
    assert red > 100 > blue, "the map of evidence is orange above the image"
    evaluate("document.getElementById('heat').click()")
    assert evaluate(PIXEL) == [20, 250, 30, 255]
    assert "no image" in evaluate(CHOOSE % list(b"<script>"))
    assert not evaluate("document.querySelectorAll('b').length"), "names are text"
