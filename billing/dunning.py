"""Holds on accounts that do not pay: placed by the close, lifted the moment nothing is overdue."""

from collections.abc import Iterable
from datetime import datetime

from accounts import holds
from accounts.models import Account, Hold
from billing import decisions, ledger, messages
from billing.ledger import Standing
from billing.models import Decision


def place_hold(account: Account, standing: Standing) -> Hold:
    """
    This will place a hold for overdue invoices and queue its message. The caller decides and writes why.

    :raises holds.AlreadyHeld: if the account has one.
    """
    hold = holds.place_hold(account_id=account.pk, reason=Hold.Reason.OVERDUE, as_of=standing.as_of)
    messages.hold_placed(hold, account=account, due_minor=standing.due_minor, as_of=standing.as_of)
    return hold


def lift_settled_holds(account_ids: Iterable[int], *, because: str, as_of: datetime) -> list[Hold]:
    """
    This will lift the overdue holds of the (locked) accounts that have nothing overdue any more.

    Called in every transaction that lowers what is owed, so that nobody who has paid stays held.
    """
    open_holds = list(
        Hold.objects.filter(account__in=account_ids, reason=Hold.Reason.OVERDUE, lifted_at=None)
        .select_related("account__entity")
        .order_by("account")
    )
    standings = ledger.standings({hold.account_id for hold in open_holds}, as_of=as_of)
    settled = [hold for hold in open_holds if not standings[hold.account_id].overdue_minor]
    for hold in settled:
        _lift(hold, standing=standings[hold.account_id], because=because)
    return settled


def _lift(hold: Hold, *, standing: Standing, because: str) -> None:
    holds.lift_hold(hold=hold, as_of=standing.as_of, because=because)
    decisions.record(
        decisions.decision(
            act="LIFT_HOLD",
            did=Decision.Did.DONE,
            because=because,
            account_id=hold.account_id,
            saw=standing.facts,
            hold=hold,
        )
    )
    messages.hold_lifted(
        hold, account=hold.account, due_minor=standing.due_minor, as_of=standing.as_of
    )
