"""
Follow up what is not paid: remind before the due day, warn after it, hold at last.

A close ends on its day, long before its invoices are due. So the sweep goes on from there, by what is true
whenever it looks: it needs to know neither why a close held nobody, nor what has failed since. Where a declined
card is tried again, `retries` goes on with it, and this only reminds and warns.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic
from typing import Any

from django.db import connection, transaction

from accounts import pauses
from accounts.models import Account, BillingEntity, Hold
from billing import decisions, dunning, ledger, locks, messages, step_kinds
from billing.ledger import Standing
from billing.messages import Outlook
from billing.models import AccountClosure, Decision, DunningCase, FollowUp, Invoice, Step
from billing.payments import guard, throttle
from notifications import bisect
from notifications.models import Message

logger = logging.getLogger(__name__)

# Who is charged by a close has paid by then, and needs no follow-up.
AFTER_ISSUE = timedelta(hours=1)
# When to look again at what only time, or somebody else, changes.
SOON = timedelta(hours=1)
TOMORROW = timedelta(days=1)
# In one transaction, and one query of a kind.
BATCH = 200
# A sweep has other parts: what is left is the next one's, oldest first.
WITHIN_SECONDS = 20.0


def follow_up(*, as_of: datetime, within_seconds: float = WITHIN_SECONDS) -> int:
    """
    Remind, warn and hold the accounts whose time has come. Returns how many it looked at.

    :raises Exception: what failed for one of them, after all others had their turn. It is looked at again later.
    """
    _enrol(as_of=as_of)
    looked, errors = 0, []
    stop_at = monotonic() + within_seconds
    while monotonic() < stop_at and (ids := _due(as_of)):
        failed = list(
            bisect.failures(lambda some: _look(some, as_of=as_of), ids, what="follow-ups")
        )
        for account_id, error in failed:
            logger.error("account %s cannot be followed up", account_id, exc_info=error)
            FollowUp.objects.filter(account=account_id).update(
                look_at=as_of + SOON, because=f"{type(error).__name__}: {error}"[:300]
            )
            errors.append(error)
        looked += len(ids)
    if errors:
        raise errors[0]
    return looked


def look_at_once(*, entity_id: int | None, currency: str, as_of: datetime) -> None:
    """Look at accounts in this currency, of one entity or of all, in the next sweep: what is asked for has changed."""
    concerned = FollowUp.objects.filter(account__currency=currency)
    if entity_id is not None:
        concerned = concerned.filter(account__entity=entity_id)
    concerned.update(look_at=as_of)


def _enrol(*, as_of: datetime) -> None:
    """Follow up every account that has an open invoice, whoever issued or opened it."""
    with connection.cursor() as cursor:
        cursor.execute(ENROL, {"as_of": as_of, "issued_before": as_of - AFTER_ISSUE})


ENROL = """
INSERT INTO billing_followup (account_id, look_at, because)
SELECT DISTINCT i.account_id, %(as_of)s::timestamptz, ''
  FROM billing_invoice i
 WHERE i.state = 'ISSUED' AND i.settled_at IS NULL AND i.issued_at <= %(issued_before)s
   AND NOT EXISTS (SELECT FROM billing_followup f WHERE f.account_id = i.account_id)
    ON CONFLICT DO NOTHING
"""


def _due(as_of: datetime) -> list[int]:
    due = FollowUp.objects.filter(look_at__lte=as_of).order_by("look_at", "account")
    return list(due.values_list("account", flat=True)[:BATCH])


@dataclass(frozen=True)
class _Seen:
    """What is true of one account, under its lock."""

    account: Account
    standing: Standing
    outlook: Outlook
    next_due: Invoice | None  # the first that is open and not past due
    is_held: bool
    case: DunningCase | None
    stopped: str  # why nobody is dunned or held now, if that is so
    cannot_pay: str
    because_before: str


@transaction.atomic(durable=True)
def _look(account_ids: Sequence[int], *, as_of: datetime) -> None:
    accounts = locks.accounts_for_update(account_ids)
    follow_ups = {
        each.account_id: each
        for each in FollowUp.objects.filter(account__in=account_ids, look_at__lte=as_of)
    }
    still_due = {pk: accounts[pk] for pk in follow_ups}
    paid = []
    for pk, seen in _see(still_due, follow_ups, as_of=as_of).items():
        if seen.is_held and not seen.standing.past_due_minor:
            # A payment lifts it at once; here it is what is asked for that has changed.
            because = "less is overdue than is asked for"
            dunning.lift_settled_holds([pk], because=because, as_of=as_of)
        if seen.standing.due_minor <= 0:
            paid.append(pk)
            continue
        follow_ups[pk].look_at, follow_ups[pk].because = _act(seen)
    FollowUp.objects.filter(account__in=paid).delete()
    FollowUp.objects.bulk_update(
        [each for pk, each in follow_ups.items() if pk not in paid], ["look_at", "because"]
    )


def _see(
    accounts: Mapping[int, Account], follow_ups: Mapping[int, FollowUp], *, as_of: datetime
) -> dict[int, _Seen]:
    standings = ledger.standings(accounts, as_of=as_of)
    outlooks = messages.outlooks(accounts, as_of=as_of)
    entities = BillingEntity.objects.in_bulk({account.entity_id for account in accounts.values()})
    for account in accounts.values():
        account.entity = entities[account.entity_id]
    past_due = [invoice.pk for seen in outlooks.values() for invoice in seen.past_due]
    to_come = Invoice.objects.filter(account__in=accounts, state="ISSUED", settled_at=None)
    next_due = {i.account_id: i for i in to_come.exclude(pk__in=past_due).order_by("-due_at")}
    held = set(
        Hold.objects.filter(
            account__in=accounts, reason=Hold.Reason.OVERDUE, lifted_at=None
        ).values_list("account", flat=True)
    )
    cases = {
        case.account_id: case
        for case in DunningCase.objects.filter(account__in=accounts, closed_at=None)
    }
    paused = pauses.because_of(accounts)
    closed = AccountClosure.objects.standing(accounts).values_list("account", flat=True)
    stopped = paused | dict.fromkeys(closed, "the account is closed")
    cannot_pay = throttle.nobody_can_pay(accounts)
    lost = "payments may have been lost: charging is paused until they are found"
    everywhere = lost if guard.any_is_closed() else ""
    return {
        pk: _Seen(
            account=account,
            standing=standings[pk],
            outlook=outlooks[pk],
            next_due=next_due.get(pk),
            is_held=pk in held,
            case=cases.get(pk),
            stopped=everywhere or stopped.get(pk, ""),
            cannot_pay=cannot_pay.get(pk, ""),
            because_before=follow_ups[pk].because,
        )
        for pk, account in accounts.items()
    }


# When to look next, and what it waits for.
Next = tuple[datetime, str]


def _act(seen: _Seen) -> Next:
    """Do what is to be done now, and say when to look next."""
    standing, as_of = seen.standing, seen.standing.as_of
    if standing.is_too_little:
        return as_of + TOMORROW, "less is due than is asked for: carried to the next invoice"
    if seen.is_held:
        return as_of + TOMORROW, "on hold"
    if standing.in_flight_minor:
        return as_of + SOON, "a payment is on its way"
    if seen.stopped:
        return as_of + SOON, seen.stopped
    if standing.overdue_minor:
        return _overdue(seen)
    if standing.is_tried_again:
        return as_of + SOON, f"in dunning: {seen.case}"
    if seen.next_due is None:
        # Past due, but too little of it.
        return as_of + TOMORROW, "less is overdue than is asked for"
    return _not_yet_due(seen, seen.next_due)


# --- before the due day


def _not_yet_due(seen: _Seen, invoice: Invoice) -> Next:
    assert invoice.due_at is not None, f"{invoice} is not issued"
    assert invoice.issued_at is not None, f"{invoice} is not issued"
    as_of = seen.standing.as_of
    days = seen.account.entity.remind_days_before
    words = f"not due until {invoice.due_date}"
    if days is None or invoice.due_date is None:
        return max(invoice.due_at, as_of + SOON), words
    remind_at = invoice.due_at - timedelta(days=days + 1)
    if as_of < remind_at:
        return remind_at, words
    tried_again = seen.case is not None and seen.case.next_try_at is not None
    # The invoice itself has just said it; and a card that is tried in time needs nobody's doing.
    if remind_at - invoice.issued_at >= TOMORROW and not tried_again:
        _remind(seen, invoice)
    return max(invoice.due_at, as_of + SOON), words


def _remind(seen: _Seen, invoice: Invoice) -> None:
    if not seen.account.email or _was_reminded(invoice):
        return
    standing = seen.standing
    messages.payment_reminder(
        invoice, account=seen.account, due_minor=standing.due_minor, as_of=standing.as_of
    )
    _decide(seen, "REMIND", Decision.Did.DONE, f"{invoice} is due on {invoice.due_date}")


def _was_reminded(invoice: Invoice) -> bool:
    return Message.objects.filter(kind="PAYMENT_REMINDER", fact=f"invoice:{invoice.pk}").exists()


# --- after it


def _overdue(seen: _Seen) -> Next:
    """Warn, and hold once all that comes before a hold has been."""
    as_of, outlook = seen.standing.as_of, seen.outlook
    if dunning.is_forgiven(seen.account.pk, outlook.past_due):
        return as_of + TOMORROW, "its hold was lifted by hand: the next close looks again"
    if outlook.grace_days is not None and outlook.warned_at is None:
        return _warn(seen)
    if seen.case is not None:
        # The end of its schedule holds it.
        return as_of + SOON, f"in dunning: {seen.case}"
    if not outlook.may_be_held(as_of):
        assert outlook.held_from is not None, f"{seen.account} was not warned"
        return outlook.held_from, outlook.waits_for
    if _is_the_closes(seen.account):
        return as_of + SOON, "the hold step of its close looks first"
    if seen.cannot_pay:
        # Their provider is down: nobody is held for that.
        return as_of + SOON, f"nobody can pay now: {seen.cannot_pay}"
    return _hold(seen)


def _is_the_closes(account: Account) -> bool:
    """Whether a close that goes on is still to decide on a hold: of what happens in a close, it tells."""
    return Step.objects.filter(account=account, kind=step_kinds.HOLD, state__in=Step.OPEN).exists()


def _warn(seen: _Seen) -> Next:
    as_of, outlook, account = seen.standing.as_of, seen.outlook, seen.account
    oldest = outlook.past_due[0]
    assert oldest.due_at is not None, f"{oldest} is not issued"
    warn_at = oldest.due_at + timedelta(days=seen.account.entity.warn_days_after or 0)
    if as_of < warn_at:
        return warn_at, f"to be warned on {warn_at:%Y-%m-%d}"
    if not account.email:
        return _left_to_a_person(seen, "nobody can be warned: the account has no email address")
    if outlook.warning is None:
        messages.hold_warning(outlook.past_due, account=account, standing=seen.standing)
        _decide(seen, "WARN", Decision.Did.DONE, f"{oldest} is overdue")
        return as_of + SOON, "the warning is being delivered"
    if outlook.warning.state == Message.State.DEAD:
        because = f"the warning cannot be delivered to {outlook.warning.recipient}"
        return _left_to_a_person(seen, because)
    return as_of + SOON, "the warning is being delivered"


def _left_to_a_person(seen: _Seen, because: str) -> Next:
    """Written down once: nobody is held who was not warned, whatever they owe."""
    if because != seen.because_before:
        _decide(seen, "HOLD", Decision.Did.BLOCKED, because)
    return seen.standing.as_of + SOON, because


def _hold(seen: _Seen) -> Next:
    hold = dunning.place_hold(seen.account, seen.standing, seen.outlook)
    _decide(seen, "HOLD", Decision.Did.DONE, "overdue and not paid", hold=hold)
    return seen.standing.as_of + TOMORROW, "on hold"


def _decide(seen: _Seen, act: str, did: str, because: str, **links: Any) -> None:
    decisions.record(
        decisions.decision(
            act=act,
            did=did,
            because=because,
            account_id=seen.account.pk,
            saw=seen.standing.facts,
            **links,
        )
    )
