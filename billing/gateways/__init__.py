"""Payment providers behind one protocol. A new one is a module here and a line in `get`."""

from django.conf import settings

from billing.charge_protocol import Status
from billing.gateways.base import (
    About,
    AttemptSpec,
    Capabilities,
    CardSetup,
    DisputeSeen,
    DisputeStatus,
    EventHint,
    FinishedSetup,
    Foreign,
    Gateway,
    Method,
    Misconfigured,
    NotAuthentic,
    NotSent,
    Observation,
    OutcomeUnknown,
    RateLimited,
    RefundRefused,
    RefundSeen,
    RefundSpec,
    RefundStatus,
    SettlementLine,
    Unreadable,
)
from billing.gateways.standins.debit import DebitGateway
from billing.gateways.standins.sandbox import SandboxGateway
from billing.gateways.standins.sandbox_remote import RemoteSandbox

__all__ = [
    "About",
    "AttemptSpec",
    "Capabilities",
    "CardSetup",
    "DisputeSeen",
    "DisputeStatus",
    "EventHint",
    "FinishedSetup",
    "Foreign",
    "Gateway",
    "Method",
    "Misconfigured",
    "NotAuthentic",
    "NotSent",
    "Observation",
    "OutcomeUnknown",
    "RateLimited",
    "RefundRefused",
    "RefundSeen",
    "RefundSpec",
    "RefundStatus",
    "SettlementLine",
    "Status",
    "Unreadable",
    "get",
    "names",
]


def names() -> list[str]:
    """The gateways this installation can charge through."""
    return [
        "sandbox",
        *(["stripe"] if settings.STRIPE_SECRET_KEY else []),
        *(["debit"] if settings.DEBIT_WEBHOOK_SECRETS else []),
    ]


def for_cards() -> str:
    """The gateway that new cards are entered at: Stripe where it is set up, else the sandbox."""
    return "stripe" if settings.STRIPE_SECRET_KEY else "sandbox"


def get(name: str) -> Gateway:
    """
    Return the gateway of a name.

    :raises Misconfigured: if this installation has none of that name, or its keys do not fit together.
    """
    if name not in names():
        raise Misconfigured(f"gateway {name!r} is not one of {', '.join(names())}")
    if name == "stripe":
        # Imported where it is used: its SDK takes half a second, which every command would pay.
        from billing.gateways.stripe import StripeGateway

        return StripeGateway()
    if name == "debit":
        return DebitGateway(
            settings.DEBIT_BOOK,
            notice_days=settings.DEBIT_NOTICE_DAYS,
            webhook_secrets=settings.DEBIT_WEBHOOK_SECRETS,
        )
    if settings.SANDBOX_URL:
        return RemoteSandbox(settings.SANDBOX_URL)
    return SandboxGateway(
        settings.SANDBOX_BOOK,
        latency_seconds=settings.SANDBOX_LATENCY_SECONDS,
        slow_seconds=settings.SANDBOX_SLOW_SECONDS,
    )
