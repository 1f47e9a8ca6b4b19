"""``with_service_names.py FILE MODULE ARGUMENT…`` runs a module in which names of services resolve, as within a cluster.

FILE has a line ``ADDRESS NAME NAMESPACE`` for each service, and changes while the module runs.
"""

import runpy
import socket
import sys
from pathlib import Path


def resolve_services(file: Path) -> None:
    """Let ``socket.getaddrinfo`` know the services in a file."""
    original = socket.getaddrinfo

    def getaddrinfo(host, *arguments, **options):  # type: ignore[no-untyped-def]
        for line in file.read_text().splitlines() if file.exists() else ():
            address, name, namespace = line.split()
            base = f"{name}.{namespace}"
            if host in (base, f"{base}.svc", f"{base}.svc.cluster.local"):
                host = address
        return original(host, *arguments, **options)

    socket.getaddrinfo = getaddrinfo


if __name__ == "__main__":
    resolve_services(Path(sys.argv[1]))
    del sys.argv[0:2]

    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
