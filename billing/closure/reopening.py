"""The way back: an account that was closed is open again."""

from datetime import datetime

from django.db import transaction

from accounts import timeline
from accounts.models import Account
from billing import decisions, ledger, locks
from billing.models import AccountClosure, Decision


class NotClosed(Exception):
    """The account is open."""


@transaction.atomic(durable=True)
def reopen_account(*, account_id: int, because: str, actor: str, as_of: datetime) -> AccountClosure:
    """
    Open a closed account again: the next close takes it, with what was used meanwhile.

    What was written off or paid back stays so; what is due is charged by the next close.

    :raises NotClosed: if it is open.
    """
    account = locks.account_for_update(account_id)
    closure = AccountClosure.objects.standing([account_id]).first()
    if closure is None:
        raise NotClosed("the account is open")
    closure.reopened_at = max(as_of, closure.closed_at)
    closure.reopened_by, closure.reopened_because = actor, because[:300]
    closure.charge_at = None
    closure.save(update_fields=["reopened_at", "reopened_by", "reopened_because", "charge_at"])
    account.state = Account.State.ACTIVE
    account.save(update_fields=["state"])
    decisions.record(
        decisions.decision(
            act="REOPEN_ACCOUNT",
            did=Decision.Did.DONE,
            because=because,
            account_id=account_id,
            saw=ledger.standing(account_id, as_of=as_of).facts,
            actor=actor,
        )
    )
    timeline.record(
        timeline.event(
            account_id=account_id,
            kind="account.reopened",
            summary=f"Account opened again: {because}",
            actor=actor,
            closure=closure.pk,
        )
    )
    return closure
