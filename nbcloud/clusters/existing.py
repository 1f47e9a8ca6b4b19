"""A scheduler that somebody else runs: known by its address, used, and never ended by us."""

from __future__ import annotations

import platform
import re
import socket
import ssl
import time
import uuid
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from nbcloud.clusters import registry, wire
from nbcloud.clusters.base import DEFAULT_GROUP, ClusterInfo, Progress, TLSFiles, check_name, silent
from nbcloud.errors import ClusterLost, ClusterNotFound, UsageError

_PORT = 8786  # Dask's default for schedulers
_ADDRESS_HINT = "Write tcp://HOST:PORT or tls://HOST:PORT."


def up(
    address: str,
    name: str | None = None,
    *,
    tls: TLSFiles | None = None,
    timeout: float = 10.0,
    progress: Progress = silent,
) -> ClusterInfo:
    """Look whether a scheduler answers at ``address``, and register it.

    Parameters
    ----------
    address : str
        ``tcp://HOST:PORT`` or ``tls://HOST:PORT``.
    name : str, optional
        The name to register it under; by default made from host and port.
    tls : TLSFiles, optional
        This client's certificates for ``tls://``; by default those of Dask's configuration.
    timeout : float
        Seconds that the scheduler may take to answer.

    Raises
    ------
    ClusterNotFound
        When no Dask scheduler answers there that accepts us; the message says what there is instead.
    UsageError
        For an address, a name or certificate files that can't be right.
    """
    scheme, host, port = _split(address)
    address = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
    name = check_name(name or re.sub(r"[^A-Za-z0-9._]+", "-", f"{host}-{port}").strip("-._"))
    with registry.lock(name, timeout=timeout):
        _check_free(name, address)
        info = look(address, name, tls=tls, timeout=timeout, progress=progress)
        registry.put(info)
    return info


def look(
    address: str,
    name: str,
    *,
    tls: TLSFiles | None = None,
    timeout: float = 10.0,
    progress: Progress = silent,
) -> ClusterInfo:
    """Look whether a scheduler answers, as `up`, and register nothing."""
    scheme, host, port = _split(address)
    info = ClusterInfo(
        name=name,
        id=uuid.uuid4().hex[:8],
        kind="existing",
        address=f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}",
        tls=_certificates(tls) if scheme == "tls" else None,
        created=time.time(),
        host=platform.node(),
    )
    progress(f"looking for the scheduler at {info.address}")
    return _described(info, _identity(info, timeout))


def alive(info: ClusterInfo) -> bool:
    """Whether something listens at its address."""
    _, host, port = _split(info.address)
    try:
        socket.create_connection((host, port), timeout=2.0).close()
    except OSError:
        return False
    return True


def down(info: ClusterInfo) -> None:
    """Forget it; the scheduler goes on."""
    registry.remove(info.name, info.id)


def scale(
    info: ClusterInfo,
    n: int,  # noqa: ARG001  # as in every backend
    group: str = DEFAULT_GROUP,
    *,
    progress: Progress = silent,  # noqa: ARG001
) -> ClusterInfo:
    """Refuse: its size belongs to whoever runs it.

    Raises
    ------
    UsageError
        Always.
    """
    follow(info, group)


def follow(info: ClusterInfo, group: str = DEFAULT_GROUP) -> NoReturn:  # noqa: ARG001
    """Refuse, as `scale`.

    Raises
    ------
    UsageError
        Always.
    """
    raise UsageError(
        f"The cluster {info.name!r} at {info.address} was not started by nbcloud, which can't scale it.",
        "Scale it where it was started.",
    )


# --- what was asked for ----------------------------------------------------------------------------------


def _split(address: str) -> tuple[str, str, int]:
    try:
        parts = urlsplit(address)
        scheme, host, port = parts.scheme, parts.hostname, parts.port
    except ValueError:
        raise UsageError(f"{address!r} is not the address of a scheduler.", _ADDRESS_HINT) from None
    if scheme not in ("tcp", "tls") or not host or parts.path.strip("/") or parts.username:
        raise UsageError(f"{address!r} is not the address of a scheduler.", _ADDRESS_HINT)
    return scheme, host, port or _PORT


def _check_free(name: str, address: str) -> None:
    current = registry.get(name)
    if current is None or current.address == address:
        return
    if registry.state(current) == "dead":
        registry.discard(current)
        return
    where = current.address or "127.0.0.1"
    raise UsageError(
        f"{name!r} is already the name of the cluster at {where}.",
        f"Use another name, or first type: %cloud down {name}",
    )


def _certificates(tls: TLSFiles | None) -> TLSFiles:
    if tls is None:
        import dask
        import distributed  # noqa: F401  # Dask's configuration has these keys by its import only

        keys = ("ca-file", "client.cert", "client.key")
        found = [dask.config.get(f"distributed.comm.tls.{key}") for key in keys]
        if not (found[0] and found[1]):
            raise UsageError(
                "A tls:// scheduler needs the client's certificates, and Dask's configuration names none.",
                "Give their files: --tls-ca FILE --tls-cert FILE --tls-key FILE",
            )
        tls = TLSFiles(ca=found[0], cert=found[1], key=found[2] or found[1])
    files = TLSFiles(*(str(Path(path).expanduser().absolute()) for path in (tls.ca, tls.cert, tls.key)))
    for path in (files.ca, files.cert, files.key):
        if not Path(path).is_file():
            raise UsageError(f"There is no certificate file {path}.")
    try:
        # Read here, so that a bad file is not taken for a scheduler that does not answer.
        ssl.create_default_context(cafile=files.ca).load_cert_chain(files.cert, files.key)
    except (ssl.SSLError, OSError) as error:
        raise UsageError(
            f"The certificate files {files.ca}, {files.cert} and {files.key} don't fit: {error}."
        ) from None
    return files


# --- what is there ---------------------------------------------------------------------------------------


def _identity(info: ClusterInfo, timeout: float) -> dict[str, Any]:
    scheme, host, port = _split(info.address)
    _check_listens(info.address, host, port, timeout)
    try:
        identity = wire.ask(info, "identity", timeout=timeout)
    except ClusterLost as error:
        raise ClusterNotFound(*_diagnosis(info.address, scheme, host, port, error)) from error
    if not isinstance(identity, dict) or "workers" not in identity:
        kind = identity.get("type", "Dask server") if isinstance(identity, dict) else "Dask server"
        raise ClusterNotFound(
            f"At {info.address} there is a {kind}, not a scheduler.", "Give the scheduler's address."
        )
    return identity


def _check_listens(address: str, host: str, port: int, timeout: float) -> None:
    try:
        socket.create_connection((host, port), timeout=timeout).close()
    except ConnectionRefusedError:
        raise ClusterNotFound(
            f"Nothing listens at {address}.", "Is the scheduler up, and the port right?"
        ) from None
    except socket.gaierror:
        raise ClusterNotFound(f"No host has the name {host!r} of {address}.", _ADDRESS_HINT) from None
    except TimeoutError:
        raise ClusterNotFound(
            f"{address} can't be reached: no answer within {timeout:g} s.",
            "Is there a firewall, or a VPN to join?",
        ) from None
    except OSError as error:
        raise ClusterNotFound(f"{address} can't be reached: {error.strerror or error}.") from None


def _diagnosis(address: str, scheme: str, host: str, port: int, error: ClusterLost) -> tuple[str, str]:
    """Why what listens there did not answer, and the next thing to do."""
    speaks_tls = _speaks_tls(host, port)
    if scheme == "tcp" and speaks_tls:
        return (
            f"The server at {address} speaks TLS only.",
            f"Use tls://{host}:{port}, with your certificates.",
        )
    if scheme == "tls" and not speaks_tls:
        return f"The server at {address} does not speak TLS.", f"Is it tcp://{host}:{port}?"
    if scheme == "tls" and _is_about_tls(error):
        return (
            f"The scheduler at {address} and our certificates don't accept each other.",
            "Are they of the same CA?",
        )
    return (
        f"What listens at {address} does not answer as a Dask scheduler does.",
        "Is it the scheduler's port?",
    )


def _speaks_tls(host: str, port: int) -> bool:
    """Whether a server answers a TLS greeting at all; nothing is verified, and nothing is sent."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with suppress(OSError), closing(socket.create_connection((host, port), timeout=2.0)) as plain:
        try:
            context.wrap_socket(plain).close()
        except ssl.SSLError as error:
            # A refusal in TLS is TLS; an answer in anything else is a "wrong version number".
            return "ALERT" in (error.reason or "")
        return True
    return False


def _is_about_tls(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLError) or "SSL" in str(error) or "certificate" in str(error):
            return True
        if type(error).__name__ == "FatalCommClosedError":
            return True
        error = error.__cause__ or error.__context__
    return False


def _described(info: ClusterInfo, identity: dict[str, Any]) -> ClusterInfo:
    workers = identity["workers"].values()
    return replace(
        info,
        workers=len(workers),
        threads=min((worker["nthreads"] for worker in workers), default=0),
        memory=min((worker["memory_limit"] or 0 for worker in workers), default=0),
    )
