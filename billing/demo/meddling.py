"""The world that changes while the close runs: payments by hand, credits, cards removed."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Q

from accounts.models import Account, PaymentMethod
from billing import ledger, step_kinds
from billing.demo import charging
from billing.invoices import credits
from billing.models import CloseRun, PaymentAttempt, Step
from billing.payments import booking, charges, methods

PAYING = [charging.PAYS.last_four, charging.PAYS_TOO.last_four]


@dataclass
class Deed:
    """Something somebody does to one account once its invoice is there."""

    account: Account
    does: Callable[[Account, datetime], object]


def plan(run: CloseRun) -> list[Deed]:
    """
    Choose whom the world changes for, and put their charges last in the queue.

    They wait longest between invoice and charge, so that what happens, happens in between.
    """
    paying = list(
        Account.objects.filter(
            entity=run.entity,
            payment_methods__last_four__in=PAYING,
            members=None,
        ).order_by("-pk")[:24]
    )
    declining = list(
        Account.objects.filter(
            entity=run.entity, payment_methods__last_four=charging.DECLINES.last_four, members=None
        ).order_by("-pk")[:4]
    )
    deeds = [
        *(Deed(account, _pays_by_bank) for account in paying[:6]),
        *(Deed(account, _pays_now) for account in paying[6:10]),
        *(Deed(account, _gets_credit) for account in paying[10:16]),
        *(Deed(account, _removes_card) for account in paying[16:20]),
        *(Deed(account, _pays_by_bank) for account in declining),
    ]
    Step.objects.filter(
        run=run, kind=step_kinds.CHARGE, account__in=[deed.account for deed in deeds]
    ).update(priority=-1)
    return deeds


def meddle(run: CloseRun, deeds: list[Deed], *, as_of: datetime) -> int:
    """Do the deeds whose account has its invoice by now, and take them off the list."""
    invoiced = set(
        run.steps.filter(~Q(state__in=Step.OPEN), kind=step_kinds.INVOICE).values_list(
            "account", flat=True
        )
    )
    due = [deed for deed in deeds if deed.account.pk in invoiced]
    for deed in due:
        deed.does(deed.account, as_of)
        deeds.remove(deed)
    return len(due)


def _pays_by_bank(account: Account, as_of: datetime) -> None:
    due_minor = ledger.standing(account.pk, as_of=as_of).due_minor
    if due_minor:
        booking.record_payment(
            account_id=account.pk,
            token=uuid.uuid4(),
            amount_minor=due_minor,
            currency=account.currency,
            method="Bank transfer",
            reason="Paid by hand while the close ran",
            recorded_by="support@demo.example",
            as_of=as_of,
        )


def _pays_now(account: Account, as_of: datetime) -> None:
    # The close may be faster, or there is nothing to pay: both fine with the customer.
    charges.begin([charges.Request(account.pk, PaymentAttempt.Kind.ON_SESSION)], as_of=as_of)


def _gets_credit(account: Account, as_of: datetime) -> None:
    due_minor = ledger.standing(account.pk, as_of=as_of).due_minor
    if due_minor > 1:
        credits.grant_credit(
            account_id=account.pk,
            token=uuid.uuid4(),
            amount_minor=due_minor // 2,
            currency=account.currency,
            reason="Sorry for last Tuesday",
            granted_by="support@demo.example",
            as_of=as_of,
        )


def _removes_card(account: Account, as_of: datetime) -> None:
    for method in PaymentMethod.objects.filter(account=account, state=PaymentMethod.State.ACTIVE):
        methods.remove_card(
            account_id=account.pk, method_id=method.pk, actor="the customer", as_of=as_of
        )


DEEDS = (_pays_by_bank, _pays_now, _gets_credit, _removes_card)
