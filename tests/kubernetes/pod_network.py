"""What makes Python processes on one machine feel as if in pods: loaded by each of a pod as ``sitecustomize``.

Names of services resolve, wildcard addresses are the pod's own, and connections to other pods come from there.
"""

import socket
from pathlib import Path

PODS_AND_SERVICES = ("127.100.", "127.101.")


def resolve_services(file: str, own_namespace: str = "") -> None:
    """Let ``socket.getaddrinfo`` know the services in a file, whose lines are ``ADDRESS NAME NAMESPACE``."""
    original = socket.getaddrinfo

    def getaddrinfo(host, *arguments, **options):  # type: ignore[no-untyped-def]
        for line in (
            Path(file).read_text().splitlines() if isinstance(host, str) and Path(file).exists() else ()
        ):
            address, name, namespace = line.split()
            base = f"{name}.{namespace}"
            names = [base, f"{base}.svc", f"{base}.svc.cluster.local"] + [name] * (namespace == own_namespace)
            if host in names:
                host = address
        found = original(host, *arguments, **options)
        return [each for each in found if each[0] != socket.AF_INET6] or found  # a cluster of IPv4

    socket.getaddrinfo = getaddrinfo


def isolate(address: str) -> None:
    """Give this process an address of its own."""
    plain = {name: getattr(socket.socket, name) for name in ("bind", "connect", "connect_ex")}

    def bind(self, where, /):  # type: ignore[no-untyped-def]
        if self.family == socket.AF_INET and where[0] in ("", "0.0.0.0"):
            where = (address, where[1])
        return plain["bind"](self, where)

    def connecting(name):  # type: ignore[no-untyped-def]
        def connect(self, where, /):  # type: ignore[no-untyped-def]
            inside = self.family == socket.AF_INET and str(where[0]).startswith(PODS_AND_SERVICES)
            if inside and self.getsockname()[1] == 0:
                plain["bind"](self, (address, 0))
            return plain[name](self, where)

        return connect

    socket.socket.bind = bind  # type: ignore[method-assign]
    socket.socket.connect = connecting("connect")  # type: ignore[method-assign]
    socket.socket.connect_ex = connecting("connect_ex")  # type: ignore[method-assign]
