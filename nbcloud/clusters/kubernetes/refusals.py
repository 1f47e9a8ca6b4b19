"""What it means when Kubernetes does not do what it is asked, and what can be done about it."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from nbcloud.clusters.kubernetes.naming import Where
from nbcloud.errors import ClusterError, ClusterLost, ClusterNotFound

INSTALL = "Type: nbcloud kubernetes install"
TIMEOUT = 15.0
"""Seconds that the API server may take to answer."""


class Refused(ClusterError):
    """The API server said no; ``code`` is HTTP's, ``reason`` is Kubernetes' word for it."""

    code: int = 0
    reason: str = ""


def kubeconfig_of(where: Where) -> str:
    """The kubeconfig of a place; it need not be there."""
    return where.kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"


def no_access(where: Where, error: Exception) -> str:
    """Why a kubeconfig leads nowhere."""
    place = kubeconfig_of(where)
    if where.context and "context" in str(error).lower():
        return f"The kubeconfig {place} has no context {where.context!r}."
    if "credentials" in str(error):
        return f"No Kubernetes is known here: there is no kubeconfig at {place}."
    return f"The kubeconfig {place} can't be used ({error})."


@asynccontextmanager
async def explained(server: str, kubeconfig: str = "") -> AsyncIterator[None]:
    """Turn what a client library raises into what can be done about it."""
    import anyio
    import httpx
    import kr8s

    at = f" at {server}" if server else f" that {kubeconfig} names"
    try:
        yield
    except kr8s.ServerError as error:
        raise refused(error.response, "", "") from None
    except (kr8s.APITimeoutError, httpx.TimeoutException):
        raise ClusterLost(
            f"The Kubernetes API server{at} gave no answer within {TIMEOUT:g} s.",
            "Is a VPN to join, or the context another?",
        ) from None
    except (ssl.SSLError, httpx.TransportError, RuntimeError, anyio.BrokenResourceError) as error:
        if isinstance(error, ssl.SSLError) or "CERTIFICATE" in str(error).upper():
            raise ClusterLost(
                f"The certificate of the Kubernetes API server{at} is not valid ({error}).",
                "Is the kubeconfig of another cluster, or an old one?",
            ) from None
        raise ClusterLost(
            f"The Kubernetes API server{at} can't be reached ({str(error) or type(error).__name__}).",
            "Is it up, a VPN to join, or the context another?",
        ) from None


def refused(response: Any, namespace: str, url: str) -> ClusterError:
    """What a refusal means, and what can be done about it."""
    code = response.status_code if response is not None else 0
    try:
        status = response.json()
    except ValueError:
        status = {"message": response.text[:300]}
    reason, message = status.get("reason", ""), status.get("message", "")
    facts = {"code": code, "reason": reason}
    if code == 401:
        return Refused(
            "Kubernetes does not accept our credentials: they are wrong, or have expired.",
            "Log in again where they come from. See: kubectl auth whoami",
            **facts,
        )
    if code == 403 and "exceeded quota" not in message:
        return Refused(f"Kubernetes refuses: {message}.", "Ask for that permission.", **facts)
    if code == 404 and f'namespaces "{namespace}" not found' in message and not url.startswith("namespaces"):
        return ClusterNotFound(
            f"Kubernetes has no namespace {namespace!r}.", f"Type: kubectl create namespace {namespace}"
        )
    if code == 404 and url.startswith("dask") and '"' not in message:
        return Refused(
            f"Kubernetes does not know {url.partition('/')[0]}: "
            "the operator of dask-kubernetes is not installed there.",
            INSTALL,
            **facts,
        )
    return Refused(f"Kubernetes refuses: {message}.", **facts)
