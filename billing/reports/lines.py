"""What was invoiced for a month, by account, by product, or both."""

from collections.abc import Sequence
from datetime import date
from typing import Any

from django.db import connection

from billing.money import to_major

# The dimensions a row may be broken down by, and their columns.
DIMENSIONS = {"account": "a.external_id", "product": "p.code"}
# The keys of a row, in order, after its dimensions.
COLUMNS = ("currency", "amount_unrounded", "lines", "amount")


class UnknownDimension(ValueError):
    """Invoices cannot be broken down by this."""


def invoiced(*, entity_id: int, month: date, by: Sequence[str]) -> list[dict[str, Any]]:
    """
    Add up the lines of a month's issued invoices, a row per combination and currency.

    `amount_unrounded` is the exact sum in major units, `amount` the sum of the rounded lines; both
    are strings.

    :raises UnknownDimension: if `by` names something else than account or product.
    """
    if unknown := [name for name in by if name not in DIMENSIONS]:
        raise UnknownDimension(f"--by {unknown[0]!r}: use account, product, or account,product")
    columns = "".join(f"{DIMENSIONS[name]} AS {name}, " for name in by)
    group = "".join(f"{DIMENSIONS[name]}, " for name in by)
    with connection.cursor() as cursor:
        cursor.execute(
            INVOICED.format(columns=columns, group=group), {"entity": entity_id, "month": month}
        )
        names = [column.name for column in cursor.description]
        return [_row(dict(zip(names, row, strict=True))) for row in cursor.fetchall()]


INVOICED = """
SELECT {columns}i.currency, sum(l.amount_unrounded) AS amount_unrounded,
       sum(l.amount_minor)::bigint AS amount_minor, count(*) AS lines
  FROM billing_invoice i
  JOIN billing_billingperiod d ON d.id = i.period_id
  JOIN billing_lineitem l ON l.invoice_id = i.id
  JOIN accounts_account a ON a.id = i.account_id
  JOIN billing_product p ON p.id = l.product_id
 WHERE i.entity_id = %(entity)s AND d.month = %(month)s AND i.state = 'ISSUED'
 GROUP BY {group}i.currency ORDER BY {group}i.currency
"""


def _row(row: dict[str, Any]) -> dict[str, Any]:
    amount = str(to_major(row.pop("amount_minor"), row["currency"]))
    return row | {
        "amount_unrounded": format(row["amount_unrounded"].normalize(), "f"),
        "amount": amount,
    }
