"""A page to try a model of notebook 05, on this machine only: `python serve.py MODEL [PORT]`, then open the address.

It listens on 127.0.0.1 and answers two requests: the page, and an image sent to /predict. Nothing that a client sends
is used as a path, and nothing is stored.
"""

import contextlib
import io
import json
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

try:
    import predict  # beside this file, in the folder of a model
except ImportError:
    from deploy import predict

MAX_BYTES, SECONDS, CLIENTS = 20_000_000, 10, 16
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Try the model</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:32rem;margin:2rem auto;padding:0 1rem}
#drop{display:block;border:2px dashed #888;border-radius:8px;padding:2rem;text-align:center;cursor:pointer}
canvas{width:100%;margin-top:1rem}output{display:block;margin:1rem 0;font-size:1.2rem}</style>
<h1>Try the model</h1><label id="drop">Drop an image here, or choose one
<input id="file" type="file" accept="image/*"></label>
<output id="answer" aria-live="polite"></output>
<label><input id="heat" type="checkbox" checked> show where the evidence for the answer is</label>
<canvas id="view" width="480" height="480"></canvas><script>
const $ = id => document.getElementById(id), pen = $("view").getContext("2d"); let image = null, places = [];
function draw() {
  pen.clearRect(0, 0, 480, 480);
  if (!image) return;
  const side = Math.min(image.width, image.height);
  pen.drawImage(image, (image.width - side) / 2, (image.height - side) / 2, side, side, 0, 0, 480, 480);
  if (!$("heat").checked) return;
  const step = 480 / places.length;
  places.forEach((row, y) => row.forEach((warm, x) => {
    pen.fillStyle = `rgba(255, 80, 0, ${0.65 * warm})`; pen.fillRect(x * step, y * step, step, step); }));
}
async function ask(file) {
  if (!file) return;
  $("answer").textContent = "..."; image = null; places = [];
  try {
    const response = await fetch("/predict", {method: "POST", body: file}), said = await response.json();
    if (!response.ok) throw new Error(said.error);
    places = said.evidence;
    const percent = (100 * said.probability).toFixed(1);
    $("answer").textContent = `${said.class}, ${percent} %` + (said.refused ? " - refused: let a person look" : "");
    image = await createImageBitmap(file).catch(() => null);
  } catch (error) { $("answer").textContent = error.message; }
  draw();
}
$("file").onchange = event => ask(event.target.files[0]); $("heat").onchange = draw;
document.ondragover = event => event.preventDefault();
document.ondrop = event => { event.preventDefault(); ask(event.dataTransfer.files[0]); };
</script></html>"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src blob:; connect-src 'self'"


class Server(ThreadingHTTPServer):
    """At most CLIENTS at a time; more are turned away, so that slow ones cannot use up the machine."""

    daemon_threads = True

    def __init__(self, port: int, model: predict.Model) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.model, self.free = model, threading.BoundedSemaphore(CLIENTS)

    def process_request(self, request: socket.socket, client_address) -> None:
        if self.free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: socket.socket, client_address) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.free.release()

    def handle_error(self, request, client_address) -> None:
        """A client that went away is no error of the server."""


class Handler(BaseHTTPRequestHandler):
    timeout = SECONDS  # of silence

    def do_GET(self) -> None:
        if self.for_this_machine() and self.path == "/":
            self.answer(200, PAGE.encode(), "text/html; charset=utf-8")
        else:
            self.refuse(404, "there is only the page /")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not self.for_this_machine() or self.path != "/predict":
            return self.refuse(404, "images are sent to /predict")
        if not (length.isascii() and length.isdigit() and int(length)):
            return self.refuse(411, "the length of the image is missing")
        if int(length) > MAX_BYTES:
            return self.refuse(413, f"more than {MAX_BYTES // 1_000_000} MB are not taken: send a smaller copy")
        clock = threading.Timer(SECONDS, self.connection.shutdown, [socket.SHUT_RDWR])  # for the whole body
        clock.start()
        try:
            body = self.rfile.read(int(length))
        finally:
            clock.cancel()
        if len(body) < int(length):
            return self.refuse(400, "the image did not arrive whole")
        try:
            model = self.server.model
            probabilities, evidence = model.predict(predict.read(io.BytesIO(body), model.size, "the image"))
        except ValueError as error:
            return self.refuse(400, str(error))
        label, probability, refused = model.decide(probabilities)
        heat = evidence[:, :, label] - evidence.mean(axis=-1)
        heat = np.clip(heat / max(float(heat.max()), 1e-9), 0, 1).astype(float).round(3)
        said = {"class": model.classes[label], "probability": round(probability, 6), "refused": refused}
        self.answer(200, json.dumps({**said, "evidence": heat.tolist()}).encode(), "application/json")

    def for_this_machine(self) -> bool:
        """Whether the request names this machine: another site's name in Host would be somebody else's page."""
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        return host in ("127.0.0.1", "localhost")

    def refuse(self, status: int, reason: str) -> None:
        """An answer, then some of what still comes is taken in, since a client that sends would lose the answer."""
        self.close_connection = True
        self.answer(status, json.dumps({"error": reason}).encode(), "application/json")
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(1)
        with contextlib.suppress(OSError):
            for _ in range(MAX_BYTES >> 16):
                if not self.connection.recv(1 << 16):
                    break

    def answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": len(body), "Content-Security-Policy": POLICY}
        for name, value in (headers | {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}).items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments) -> None:
        """Nothing is logged."""


def main(arguments: list[str]) -> int:
    if len(arguments) not in (1, 2) or not all(port.isdigit() for port in arguments[1:]):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        server = Server(int(arguments[1]) if len(arguments) == 2 else 8000, predict.Model(arguments[0]))
    except (ValueError, OSError, OverflowError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"http://127.0.0.1:{server.server_port}/", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
