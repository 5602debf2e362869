"""What an act on many steps concerns: how many steps and accounts, and what the accounts owe."""

from typing import Any

from django.db.models import Count, QuerySet, Sum

from billing import step_kinds
from billing.models import Allocation, Invoice, Step
from notifications import formats

# So many are named on the page that asks; the rest are counted.
NAMED = 20


def of(steps: QuerySet[Step]) -> dict[str, Any]:
    """
    Count the steps by kind and state, and add up what their accounts owe, by currency.

    Amounts are texts such as "€12.00", of all issued invoices that are not settled, of any month.
    """
    chosen = steps.order_by()
    counts = chosen.values("kind", "state").annotate(steps=Count("pk")).order_by("kind", "state")
    return {
        "steps": sum(row["steps"] for row in counts),
        "counts": [
            {
                "kind": step_kinds.title(row["kind"]),
                "state": Step.State(row["state"]).label,
                "steps": row["steps"],
            }
            for row in counts
        ],
        "accounts": chosen.aggregate(n=Count("account", distinct=True))["n"],
        "named": [str(step) for step in steps.select_related("account", "run__entity")[:NAMED]],
        "owed": _owed(chosen),
    }


def _owed(chosen: QuerySet[Step]) -> list[dict[str, Any]]:
    unpaid = Invoice.objects.filter(
        account__in=chosen.exclude(account=None).values("account"),
        state=Invoice.State.ISSUED,
        settled_at=None,
    ).order_by("currency")
    paid_in_part = dict(
        Allocation.objects.filter(invoice__in=unpaid.order_by().values("pk"))
        .values_list("invoice__currency")
        .annotate(Sum("amount_minor"))
    )
    rows = unpaid.values("currency").annotate(
        accounts=Count("account", distinct=True), total=Sum("total_minor")
    )
    return [
        {
            "currency": row["currency"],
            "accounts": row["accounts"],
            "amount": formats.money(
                row["total"] - paid_in_part.get(row["currency"], 0), row["currency"], "en"
            ),
        }
        for row in rows
    ]
