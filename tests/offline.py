"""Run a Python command with the network cut off: `python tests/offline.py -m pytest --nbval`.

Where Linux allows it the command gets a network namespace of its own, in which there is only this
machine (what `unshare -rn` does). Elsewhere Python's sockets are kept from leaving the machine.
"""

import ctypes
import fcntl
import os
import socket
import struct
import sys
from pathlib import Path

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


def enter_namespace() -> None:
    """Leave the network for an empty one with a working loopback; OSError where that is not allowed."""
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "unshare"):
        raise OSError("this system has no network namespaces")
    if libc.unshare(CLONE_NEWNET):  # allowed for root; others need a user namespace too
        if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(any_socket, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))


def allowed() -> bool:
    """Whether enter_namespace works here, tried in a child."""
    if not sys.platform.startswith("linux"):
        return False
    child = os.fork()
    if child == 0:
        try:
            enter_namespace()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def cut_off(force_sockets: bool = False) -> str:
    """Cut this process and its children off; returns how: "namespace" or "sockets"."""
    if not force_sockets and allowed():
        enter_namespace()
        return "namespace"
    blocked = str(Path(__file__).resolve().parent / "blocked")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [blocked, os.environ.get("PYTHONPATH")]))
    return "sockets"


def main(arguments: list[str]) -> None:
    how = cut_off(os.environ.get("OFFLINE") == "sockets")
    os.environ["OFFLINE"] = how
    means = {"namespace": "in a network namespace of its own", "sockets": "by blocked sockets"}
    print(f"The network is cut off {means[how]}.", flush=True)
    os.execv(sys.executable, [sys.executable, *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
