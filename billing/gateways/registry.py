"""
Which gateways there are, and which of them are switched on: the setting GATEWAYS.

A new gateway is a module beside this one and a line in `KNOWN`. Each is imported when it is first asked for: an
installation never loads the code of one that it does not use, nor the half second that Stripe's SDK takes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from billing.gateways.base import Gateway, Misconfigured

# In GATEWAYS: nothing is charged through a provider; customers pay by bank transfer.
NONE = "none"


def _sandbox() -> Gateway:
    if settings.SANDBOX_URL:
        from billing.gateways.standins.sandbox_remote import RemoteSandbox

        return RemoteSandbox(settings.SANDBOX_URL)
    from billing.gateways.standins.sandbox import SandboxGateway

    return SandboxGateway(
        settings.SANDBOX_BOOK,
        latency_seconds=settings.SANDBOX_LATENCY_SECONDS,
        slow_seconds=settings.SANDBOX_SLOW_SECONDS,
    )


def _stripe() -> Gateway:
    from billing.gateways.stripe import StripeGateway

    return StripeGateway()


def _debit() -> Gateway:
    from billing.gateways.standins.debit import DebitGateway

    return DebitGateway(
        settings.DEBIT_BOOK,
        notice_days=settings.DEBIT_NOTICE_DAYS,
        webhook_secrets=settings.DEBIT_WEBHOOK_SECRETS,
    )


@dataclass(frozen=True)
class Known:
    """A gateway that GATEWAYS may name."""

    name: str
    open: Callable[[], Gateway]
    takes: Literal["cards", "mandates"]
    # The setting that it cannot do without; empty: it needs none.
    needs: str = ""
    # The setting that says that its money is real; empty: it is a stand-in, whose money never is.
    live_by: str = ""

    @property
    def is_set_up(self) -> bool:
        """Whether the setting that it cannot do without is there."""
        return not self.needs or bool(getattr(settings, self.needs))

    @property
    def is_stand_in(self) -> bool:
        """Whether it only pretends, whatever the settings say."""
        return not self.live_by


KNOWN = {
    known.name: known
    for known in (
        Known("sandbox", _sandbox, "cards"),
        Known("stripe", _stripe, "cards", needs="STRIPE_SECRET_KEY", live_by="STRIPE_LIVE"),
        Known("debit", _debit, "mandates", needs="DEBIT_WEBHOOK_SECRETS"),
    )
}


def names() -> list[str]:
    """
    Return the gateways that are switched on: those that GATEWAYS names, or by default all that are set up.

    :raises ImproperlyConfigured: if GATEWAYS names one that there is not.
    """
    if not settings.GATEWAYS:
        return [name for name, known in KNOWN.items() if known.is_set_up]
    if settings.GATEWAYS == [NONE]:
        return []
    unknown = [name for name in settings.GATEWAYS if name not in KNOWN]
    if unknown:
        raise ImproperlyConfigured(
            f"GATEWAYS is {','.join(settings.GATEWAYS)!r}, but there is no gateway {unknown[0]!r}: name some"
            f" of {', '.join(KNOWN)}, or {NONE} alone, or leave it out for those that are set up"
        )
    return [name for name in KNOWN if name in settings.GATEWAYS]


def for_cards() -> str:
    """The gateway that new cards are entered at, a real one before a stand-in; empty if no card can be."""
    return _first_that_takes("cards")


def for_mandates() -> str:
    """The gateway that direct debits are set up at, a real one before a stand-in; empty if none can be."""
    return _first_that_takes("mandates")


def _first_that_takes(what: str) -> str:
    fitting = [KNOWN[name] for name in names() if KNOWN[name].takes == what]
    return min(fitting, key=lambda known: known.is_stand_in).name if fitting else ""


def is_stand_in(name: str) -> bool:
    """Whether a gateway of this name is a stand-in of our own, which moves no money."""
    return name in KNOWN and KNOWN[name].is_stand_in


def moves_money(name: str) -> bool:
    """Whether what is charged through a gateway is real money: never a stand-in's, and not of test keys."""
    live_by = KNOWN[name].live_by
    return bool(live_by and getattr(settings, live_by))


def get(name: str) -> Gateway:
    """
    Return the gateway of a name.

    :raises Misconfigured: if there is none, it is switched off, or its keys are missing or do not fit together.
    """
    if name not in KNOWN:
        raise Misconfigured(f"gateway {name!r} is not one of {', '.join(KNOWN)}")
    known = KNOWN[name]
    if settings.GATEWAYS and name not in names():
        raise Misconfigured(
            f"gateway {name!r} is switched off: GATEWAYS is {','.join(settings.GATEWAYS)!r}"
        )
    if not known.is_set_up:
        raise Misconfigured(f"gateway {name!r} is not set up: {known.needs} is empty")
    return known.open()
