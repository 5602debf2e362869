"""Compare what the provider paid out, line by line, with what we booked: "provider total = ledger total"."""

from collections.abc import Iterator
from datetime import datetime
from itertools import groupby
from typing import Any

from billing import gateways
from billing.gateways import Misconfigured, SettlementLine
from billing.models import ListedObject, Payment, Reconciliation, ReconciliationBreak
from billing.money import money
from billing.reconciliation import breaks


def compare(reconciliation: Reconciliation, *, as_of: datetime) -> Iterator[int]:
    """
    Compare each payout with our payments; yields after each payout.

    If our key may not list payouts, that is noted, and the reconciliation can finish all the same.
    """
    try:
        yield from _compare(reconciliation, as_of=as_of)
    except Misconfigured as error:
        reconciliation.error = f"Payouts are not compared: {error}"[:300]
        reconciliation.save(update_fields=["error"])


def _compare(reconciliation: Reconciliation, *, as_of: datetime) -> Iterator[int]:
    lines = gateways.get(reconciliation.gateway).settlements(
        since=reconciliation.since,
        but=frozenset(row["payout"] for row in reconciliation.payouts),
    )
    for _, of_payout in groupby(lines, key=lambda line: line.payout_ref):
        reconciliation.payouts += _compare_one(reconciliation, list(of_payout), as_of=as_of)
        reconciliation.save(update_fields=["payouts"])
        yield 0


def _compare_one(
    reconciliation: Reconciliation, lines: list[SettlementLine], *, as_of: datetime
) -> list[dict[str, Any]]:
    """Add up a payout's lines: one row for each currency charged."""
    payments = {
        payment.provider_ref: payment
        for payment in Payment.objects.filter(
            gateway=reconciliation.gateway,
            provider_ref__in={line.charge_ref for line in lines if line.charge_ref},
        ).select_related("account", "attempt")
    }
    totals: dict[tuple[str, str], dict[str, Any]] = {}
    for line in lines:
        payment = payments.get(line.charge_ref)
        total = totals.setdefault((line.currency, line.settled_currency), _no_total(line))
        if payment is None and not line.own_reference:
            # Another installation's, or the provider's own fee.
            total["foreign"] += 1
            total["other_net_minor"] += line.net_minor
            continue
        ours_minor = _ours_minor(line, payment)
        total["lines"] += 1
        total["provider_minor"] += line.amount_minor
        total["ledger_minor"] += ours_minor
        total["gross_minor"] += line.gross_minor
        total["fee_minor"] += line.fee_minor
        total["net_minor"] += line.net_minor
        total["exchange_rate"] = str(line.exchange_rate) if line.exchange_rate else None
        if ours_minor != line.amount_minor:
            _note(reconciliation, line, payment, ours_minor, as_of=as_of)
    return list(totals.values())


def _no_total(line: SettlementLine) -> dict[str, Any]:
    zeros = dict.fromkeys(
        ("lines", "foreign", "provider_minor", "ledger_minor", "gross_minor", "fee_minor",
         "net_minor", "other_net_minor"),
        0,
    )  # fmt: skip
    return {
        "payout": line.payout_ref,
        "paid_out_at": line.paid_out_at.isoformat(),
        "currency": line.currency,
        "settled_currency": line.settled_currency,
        "exchange_rate": None,
        **zeros,
    }


def _ours_minor(line: SettlementLine, payment: Payment | None) -> int:
    """What our books say moved, in minor units of the currency charged."""
    if line.about != "CHARGE":
        return line.amount_minor
    if payment is None or payment.currency != line.currency:
        return 0
    return payment.amount_minor


def _note(
    reconciliation: Reconciliation,
    line: SettlementLine,
    payment: Payment | None,
    ours_minor: int,
    *,
    as_of: datetime,
) -> None:
    listed = ListedObject(
        provider_ref=line.source_ref,
        made_at=line.paid_out_at,
        currency=line.currency,
        amount_minor=line.amount_minor,
    )
    words = (
        f"Payout {line.payout_ref} has {money(line.amount_minor, line.currency)} for"
        f" {line.about.lower()} {line.source_ref}, our books have {money(ours_minor, line.currency)}"
    )
    breaks.note(
        reconciliation,
        ReconciliationBreak.Kind.PAYOUT_DIFFERS,
        listed,
        words,
        as_of=as_of,
        account=payment.account if payment else None,
        attempt=payment.attempt if payment else None,
    )
