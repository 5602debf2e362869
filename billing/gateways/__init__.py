"""Payment providers behind one protocol. A new one is a module here and a line in `get`."""

from django.conf import settings

from billing.gateways.base import (
    AttemptSpec,
    Capabilities,
    Gateway,
    Misconfigured,
    NotSent,
    Observation,
    OutcomeUnknown,
    RateLimited,
    Status,
)
from billing.gateways.sandbox import SandboxGateway

__all__ = [
    "AttemptSpec",
    "Capabilities",
    "Gateway",
    "Misconfigured",
    "NotSent",
    "Observation",
    "OutcomeUnknown",
    "RateLimited",
    "Status",
    "get",
    "names",
]


def names() -> list[str]:
    """The gateways this installation can charge through."""
    return ["sandbox"]


def get(name: str) -> Gateway:
    """
    This will return the gateway of a name.

    :raises Misconfigured: if this installation has none of that name.
    """
    if name == "sandbox":
        return SandboxGateway(
            settings.SANDBOX_BOOK,
            latency_seconds=settings.SANDBOX_LATENCY_SECONDS,
            slow_seconds=settings.SANDBOX_SLOW_SECONDS,
        )
    raise Misconfigured(f"gateway {name!r} is not one of {', '.join(names())}")
