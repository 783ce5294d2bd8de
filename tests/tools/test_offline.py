"""`make test` runs everything with the network cut off. Here: that it really is, in both ways."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
# Addresses outside, by number, so that a missing name service alone cannot pass for a cut network.
PROBE = """
import socket, sys
for address in [("192.0.2.1", 80), ("1.1.1.1", 443), ("2606:4700:4700::1111", 443)]:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family) as outside:
        outside.settimeout(5)
        try:
            outside.connect(address)
        except TimeoutError:
            sys.exit(f"{address[0]} was tried: nothing stops the connection")
        except OSError as error:
            print("refused:", error)
        else:
            sys.exit(f"{address[0]} was reached")
try:
    socket.getaddrinfo("example.org", 443)
except OSError as error:
    print("refused:", error)
else:
    sys.exit("example.org was resolved")
with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), 5) as client:
    server.accept()[0].sendall(b"loopback works")
    print(client.recv(100).decode())
"""


def run_offline(way: str, code: str, child: bool = False) -> subprocess.CompletedProcess:
    """Run Python code under tests/offline.py; with child=True in a child of the process there."""
    if child:
        code = f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {code!r}]).returncode)"
    command = [sys.executable, str(TESTS / "offline.py"), "-c", code]
    environment = {k: v for k, v in os.environ.items() if k not in ("OFFLINE", "PYTHONPATH")}
    environment |= {"OFFLINE": "sockets"} if way == "sockets" else {}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("child", [False, True], ids=["itself", "child"])
@pytest.mark.parametrize("way", ["automatic", "sockets"])
def test_outside_is_cut_off_and_loopback_works(way, child):
    result = run_offline(way, PROBE, child)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("refused:") == 4 and "loopback works" in result.stdout
    assert result.stdout.startswith("The network is cut off ")
    if way == "sockets":
        assert "by blocked sockets" in result.stdout.splitlines()[0]


def test_this_run_is_cut_off_if_it_says_so():
    """Under `make test` the variable OFFLINE is set and this very process must reach nothing."""
    if "OFFLINE" not in os.environ:
        pytest.skip("plain pytest: only `make test` cuts the network off")
    with socket.socket() as outside:
        outside.settimeout(5)
        with pytest.raises(OSError, match="unreachable"):
            outside.connect(("1.1.1.1", 443))


def test_the_exit_code_is_that_of_the_command():
    assert run_offline("automatic", "raise SystemExit(7)").returncode == 7


def test_servers_of_the_tests_stay_reachable():
    """A test's own web server, in a thread and by name."""
    code = """
import http.server, threading, urllib.request
server = http.server.HTTPServer(("localhost", 0), http.server.SimpleHTTPRequestHandler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(urllib.request.urlopen(f"http://localhost:{server.server_port}/", timeout=5).status)
"""
    for way in ("automatic", "sockets"):
        result = run_offline(way, code)
        assert result.stdout.splitlines()[-1:] == ["200"], result.stderr
