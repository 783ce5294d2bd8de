"""`make test` runs everything through offline.py: it cuts the network off, and this machine is still reached."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

OFFLINE = Path(__file__).resolve().parents[1] / "offline.py"
# An address outside by number, so that a missing name service alone cannot pass for a cut network; a server inside.
PROBE = """import socket, sys; print(socket.socket().connect_ex(("1.1.1.1", 443)))
server = socket.create_server(("127.0.0.1", 0)); socket.create_connection(server.getsockname(), 5); sys.exit(7)"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="network namespaces are Linux's")
def test_outside_is_cut_off_and_loopback_works():
    result = subprocess.run([sys.executable, OFFLINE, "-c", PROBE], capture_output=True, text=True, timeout=60)
    if "not cut off" in result.stdout:
        pytest.skip(result.stdout.splitlines()[0])
    assert result.returncode == 7, result.stderr
    assert result.stdout.splitlines()[1:] == [str(errno.ENETUNREACH)]
