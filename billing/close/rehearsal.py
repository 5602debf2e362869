"""Rehearse a close: the invoice step itself, on everybody, in transactions that are rolled back."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import date, datetime
from typing import Any

from django.db import transaction

from accounts.models import Account, BillingEntity
from billing import locks
from billing.close import runs
from billing.close.step import Chunk, Outcome
from billing.close.steps import invoice
from billing.models import CloseRun, Step, UsageBatch
from billing.money import is_currency, to_major
from billing.reports import rejected_rows
from notifications import bisect


def rehearse(
    *,
    entity: BillingEntity,
    month: date,
    as_of: datetime,
    on_progress: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """
    Say what closing the month now would invoice and charge, by currency, and write nothing.

    Amounts are strings in major units. `blocked` lists whom the close could not invoice, and why. Usage that is not
    tallied yet is not in them; how many batches that is stands beside them, whose usage could not be added up, and
    what rows name that were rejected and not dealt with.
    """
    run = CloseRun(entity=entity, month=month, started_by="rehearsal", started_at=as_of)
    totals: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    blocked: list[dict[str, str]] = []
    accounts = runs.accounts_to_close(entity)
    for start in range(0, len(accounts), invoice.batch):
        some = accounts[start : start + invoice.batch]
        for outcome in _outcomes(some, run=run, as_of=as_of):
            _count(outcome, totals=totals, blocked=blocked)
        on_progress(len(some))
    return {
        "rehearsal": True,
        "month": f"{month:%Y-%m}",
        "entity": entity.slug,
        "as_of": as_of.isoformat(),
        "accounts": len(accounts),
        "untallied_batches": UsageBatch.objects.filter(tallied_at=None).count(),
        "untallied_accounts": list(
            Account.objects.filter(entity=entity, untallied_usage__isnull=False)
            .order_by("external_id")
            .values_list("external_id", flat=True)
            .distinct()
        ),
        "rejected_rows": rejected_rows.of_month(month),
        "currencies": [
            # Whom a currency is wrong of stands among the blocked.
            _row(currency, totals[currency])
            for currency in sorted(totals)
            if is_currency(currency)
        ],
        "blocked": blocked,
    }


def _outcomes(some: Sequence[Account], *, run: CloseRun, as_of: datetime) -> list[Outcome]:
    """As the runner does: an error bisects the accounts down to the one that raises it."""
    outcomes: list[Outcome] = []

    def rehearse_these(accounts: Sequence[Account]) -> None:
        outcomes.extend(_rolled_back(accounts, run=run, as_of=as_of))

    # What a rehearsal is for: to see it before the close does.
    for account, error in bisect.failures(rehearse_these, some, what="accounts"):
        step = Step(run=run, account=account, kind=invoice.kind)
        outcomes.append(Outcome(step, Step.State.DEAD, f"{type(error).__name__}: {error}"))
    return outcomes


@transaction.atomic(durable=True)
def _rolled_back(some: Sequence[Account], *, run: CloseRun, as_of: datetime) -> list[Outcome]:
    accounts = locks.accounts_for_update([account.pk for account in some])
    steps = [Step(run=run, account=account, kind=invoice.kind) for account in some]
    outcomes = list(invoice.perform(Chunk(run, steps, accounts, as_of)))
    transaction.set_rollback(True)
    return outcomes


def _count(
    outcome: Outcome, *, totals: dict[str, dict[str, int]], blocked: list[dict[str, str]]
) -> None:
    account = outcome.step.account
    assert account is not None, "an invoice step is about an account"
    if outcome.state in {Step.State.BLOCKED, Step.State.DEAD}:
        blocked.append({"account": account.external_id, "because": outcome.because})
    if outcome.state == Step.State.DEAD:
        return
    total = totals[account.currency]
    if outcome.state == Step.State.DONE:
        total["invoices"] += 1
        total["invoiced"] += outcome.saw["total_minor"]
    total["due"] += outcome.saw["due_minor"]
    total["due_with_card"] += outcome.saw["due_minor"] if outcome.saw["has_card"] else 0


def _row(currency: str, total: dict[str, int]) -> dict[str, Any]:
    amounts = {
        name: str(to_major(total[name], currency)) for name in ("invoiced", "due", "due_with_card")
    }
    return {"currency": currency, "invoices": total["invoices"], **amounts}
