"""Run a Python command with the network cut off (Linux): `python tests/offline.py -m pytest --nbval`.

The command gets a network namespace of its own, in which there is only this machine. Where the system does not
allow that, the command runs with the network, and the first line says so.
"""

import os
import shutil
import subprocess
import sys

UNSHARE = ["unshare", "--map-current-user", "--keep-caps", "--net", "--"]
LOOPBACK = "import fcntl, socket, struct; fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sH14x', b'lo', 1))"


def main(arguments: list[str]) -> None:
    command = [sys.executable, *arguments]
    inside = [*UNSHARE, "sh", "-c", '"$0" -c "$1" && shift && exec "$0" "$@"', sys.executable, LOOPBACK]
    allowed = shutil.which("unshare") and not subprocess.run([*inside, "-c", ""], capture_output=True).returncode
    found = "cut off" if allowed else "not cut off: unshare --net does not work here"
    print(f"The network is {found}.", flush=True)
    command = [*inside, *arguments] if allowed else command
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
