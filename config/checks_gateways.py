"""The system checks about payment providers: which are switched on, and whether their money is real."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.models import Count

from billing import gateways
from billing.gateways.registry import KNOWN
from billing.models import Dispute, PaymentAttempt, Refund


def gateways_are_set_up(
    app_configs: Sequence[AppConfig] | None, **_kwargs: Any
) -> list[CheckMessage]:
    """Refuse a name in GATEWAYS that is no gateway's, and a gateway that lacks the setting it needs."""
    try:
        switched_on = gateways.names()
    except ImproperlyConfigured as error:
        return [Error(str(error), hint="Set GATEWAYS anew.", id="config.G001")]
    return [
        Error(
            f"GATEWAYS names {name}, but {KNOWN[name].needs} is empty.",
            hint=f"Set {KNOWN[name].needs}, or leave {name} out of GATEWAYS.",
            id="config.G002",
        )
        for name in switched_on
        if not KNOWN[name].is_set_up
    ]


def nothing_is_in_flight_where_nobody_asks(
    app_configs: Sequence[AppConfig] | None,
    databases: Sequence[str] | None = None,
    **_kwargs: Any,
) -> list[CheckMessage]:
    """Refuse to leave out a gateway that has attempts, refunds or disputes which have not ended."""
    if "default" not in (databases or ()) or gateways_are_set_up(None):
        return []
    switched_on = gateways.names()
    return [
        Error(
            f"The gateway {name} is switched off, but not everything has ended there ({_listed(counts)}):"
            " nobody would ask what becomes of that money.",
            hint=f"Switch it on again until all of that has ended (GATEWAYS, and what else {name} needs),"
            f" and give no customer a new card there. manage.py reconcile --gateway {name} asks the"
            " provider; what is in review is ended by a person, in the admin.",
            id="config.G003",
        )
        for name, counts in sorted(_in_flight().items())
        if name not in switched_on
    ]


def _in_flight() -> dict[str, Counter[str]]:
    """What has not ended, by gateway and kind. Asks of a table only what every release before had as well."""
    has = set(connections["default"].introspection.table_names())
    found: dict[str, Counter[str]] = {}
    for what, rows in (
        ("payment attempts", PaymentAttempt.objects.filter(state__in=PaymentAttempt.IN_FLIGHT)),
        ("refunds", Refund.objects.filter(state__in=Refund.IN_FLIGHT)),
        ("disputes", Dispute.objects.filter(closed_at__isnull=True)),
    ):
        # Before the first migration there is none.
        if rows.model._meta.db_table in has:
            for name, count in rows.order_by().values_list("gateway").annotate(Count("pk")):
                found.setdefault(name, Counter())[what] = count
    return found


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{what}: {count}" for what, count in counts.items())


def pretended_money_is_a_trial(
    app_configs: Sequence[AppConfig] | None, **_kwargs: Any
) -> list[CheckMessage]:
    """Refuse, in production, gateways that move no money, unless TRIAL says so; and TRIAL where one does."""
    if settings.DEBUG or gateways_are_set_up(None):
        return []
    switched_on = gateways.names()
    real = [name for name in switched_on if gateways.moves_money(name)]
    if settings.TRIAL:
        return [
            Error(
                f"TRIAL says that no real money moves, but it does through {name}.",
                hint=f"Leave TRIAL out; or leave {name} out of GATEWAYS, or {KNOWN[name].live_by} out.",
                id="config.G005",
            )
            for name in real
        ]
    return [_pretends(name) for name in switched_on if name not in real]


def _pretends(name: str) -> Error:
    if gateways.is_stand_in(name):
        said = f"The gateway {name} is a stand-in: it moves no money,"
        mend = "Name real gateways only in GATEWAYS"
    else:
        live_by = KNOWN[name].live_by
        said = f"The gateway {name} is on test keys: it moves no money without {live_by},"
        mend = f"Set live keys and {live_by}"
    return Error(
        f"{said} and would settle real invoices all the same.",
        hint=f"{mend}; or, if this is a trial, set TRIAL=true.",
        id="config.G004",
    )
