"""On PYTHONPATH, this lets no socket reach beyond this machine (see tests/offline.py)."""

import ipaddress
import socket

_connect, _connect_ex, _sendto, _getaddrinfo = (
    socket.socket.connect,
    socket.socket.connect_ex,
    socket.socket.sendto,
    socket.getaddrinfo,
)


def _check(host):
    try:
        if host in ("", "localhost") or ipaddress.ip_address(host).is_loopback:
            return
    except ValueError:
        pass
    raise OSError(101, f"Network is unreachable: the tests run offline, so {host} cannot be reached")


def _guarded(method):
    def call(self, *arguments):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            _check(arguments[-1][0])
        return method(self, *arguments)

    return call


def _getaddrinfo_guarded(host, *arguments, **named):
    name = host.decode() if isinstance(host, bytes) else host
    if name and name != "0.0.0.0" and name != "::" and name != socket.gethostname():
        _check(name)
    return _getaddrinfo(host, *arguments, **named)


socket.socket.connect = _guarded(_connect)
socket.socket.connect_ex = _guarded(_connect_ex)
socket.socket.sendto = _guarded(_sendto)
socket.getaddrinfo = _getaddrinfo_guarded
