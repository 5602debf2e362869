"""Usage that was delivered and is not billed: rows that an import rejected and nobody has dealt with."""

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Any

from django.db import connection

from billing.models import CloseRun, UsageBatch
from billing.money import exponent

# Of an import whose rows say no month that can be read, a run that has finished knew what came before.
WAITING = """
SELECT batch.id, batch.name, batch.source, batch.created_at, batch.rejects_file, kept.currency,
       count(*), sum(kept.amount), count(*) FILTER (WHERE kept.amount IS NULL OR kept.currency = '')
  FROM billing_rejectedrow kept JOIN billing_usagebatch batch ON batch.id = kept.batch_id
 WHERE kept.again_in_id IS NULL AND batch.set_aside_at IS NULL
   AND (%(batch)s IS NULL OR batch.id = %(batch)s)
   AND (%(month)s IS NULL OR kept.month <= %(month)s
        OR kept.month IS NULL AND (%(before)s IS NULL OR batch.created_at < %(before)s))
 GROUP BY batch.id, kept.currency
 ORDER BY batch.id, kept.currency
"""


def of_run(run: CloseRun) -> list[dict[str, Any]]:
    """What waits of the run's month, of earlier ones, and of none that can be read."""
    return _waiting(month=run.month, before=run.finished_at)


def of_month(month: date) -> list[dict[str, Any]]:
    """What waits of a month, of earlier ones, and of none that can be read."""
    return _waiting(month=month)


def of_import(batch: UsageBatch) -> dict[str, Any] | None:
    """What waits of one import, if anything does."""
    return next(iter(_waiting(batch=batch.pk)), None)


def in_words(row: dict[str, Any]) -> str:
    """How many rows wait, and the money that they name: "3 rows name USD 12.34; 1 names none that can be read"."""
    rows, unread = row["rows"], row["rows_without_amount"]
    named = " and ".join(f"{each['currency']} {each['amount']}" for each in row["money"])
    said = (
        f"{rows} row{'s' * (rows != 1)} {'name' if rows != 1 else 'names'} {named or 'no amount'}"
    )
    if named and unread:
        said += f"; of {unread} of them no amount can be read"
    return said if named else f"{said} that can be read"


def _waiting(
    *, batch: int | None = None, month: date | None = None, before: Any = None
) -> list[dict[str, Any]]:
    """
    By import, what its rejected rows name: amounts are strings in major units, by currency.

    Of `rows_without_amount` no amount, or no currency, can be read.
    """
    with connection.cursor() as cursor:
        cursor.execute(WAITING, {"batch": batch, "month": month, "before": before})
        rows = cursor.fetchall()
    found: dict[int, dict[str, Any]] = {}
    for import_id, name, source, at, file, currency, count, amount, unread in rows:
        row = found.setdefault(
            import_id,
            {
                "import": import_id,
                "file": name,
                "format": source,
                "imported_at": at.isoformat(),
                "rejects_file": file,
                "rows": 0,
                "rows_without_amount": 0,
                "money": [],
            },
        )
        row["rows"] += count
        row["rows_without_amount"] += unread
        if currency and amount is not None:
            row["money"].append({"currency": currency, "amount": _plain(amount, currency)})
    return list(found.values())


def _plain(amount: Decimal, currency: str) -> str:
    """With the decimals of its currency, and as many more as it has."""
    smallest = Decimal(1).scaleb(-exponent(currency))
    if amount == amount.quantize(smallest):
        return f"{amount.quantize(smallest):f}"
    return f"{amount.normalize():f}"


def lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What waits, a line for each import, for people."""
    return [
        f"not in it, rejected by import {row['import']} of {row['file']}: {in_words(row)}."
        for row in rows
    ]
