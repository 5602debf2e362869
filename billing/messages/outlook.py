"""
What comes before an account that does not pay is held: its due day, its card's tries, and a warning.

Stands here, since what customers are told of a hold to come, and when it may be placed, is one rule.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from accounts import zones
from accounts.models import Account, BillingEntity
from billing import ledger, periods
from billing.models import DunningCase, Invoice
from notifications.models import Message

HOLD_WARNING = "HOLD_WARNING"


@dataclass(frozen=True)
class Outlook:
    """What an account owes that is past its due date, and from when on it may be held for it."""

    past_due: list[Invoice]  # oldest due first
    grace_days: int | None  # None: its entity holds without a warning
    warning: Message | None  # about something that is past due, whether it was delivered or not
    # Never before the due day has ended, the card's last try is over, and the grace after a delivered warning is.
    # None: nothing is past due, or nobody was warned.
    held_from: datetime | None

    @property
    def warned_at(self) -> datetime | None:
        """When the warning was delivered."""
        return self.warning.sent_at if self.warning else None

    def may_be_held(self, as_of: datetime) -> bool:
        """Whether all that comes before a hold has been."""
        return self.held_from is not None and self.held_from <= as_of

    @property
    def waits_for(self) -> str:
        """What comes before the hold, in words."""
        if self.held_from is None:
            return "a warning comes before the hold"
        told = f"warned on {self.warned_at:%Y-%m-%d}: " if self.warned_at else ""
        return f"{told}not held before {self.held_from:%Y-%m-%d %H:%M} UTC"


def outlooks(accounts: Mapping[int, Account], *, as_of: datetime) -> dict[int, Outlook]:
    """The outlook of each of these accounts, by id. To act on it, hold their locks."""
    past_due = ledger.past_due_invoices(accounts, as_of=as_of)
    entities = BillingEntity.objects.in_bulk({each.entity_id for each in accounts.values()})
    warnings = _warnings(accounts, past_due)
    ends = dict(
        DunningCase.objects.filter(account__in=past_due, closed_at=None).values_list(
            "account", "ends_at"
        )
    )
    return {
        pk: _outlook(
            account,
            past_due.get(pk, []),
            grace_days=entities[account.entity_id].grace_days,
            warning=warnings.get(pk),
            case_ends_at=ends.get(pk),
        )
        for pk, account in accounts.items()
    }


def _outlook(
    account: Account,
    past_due: list[Invoice],
    *,
    grace_days: int | None,
    warning: Message | None,
    case_ends_at: datetime | None,
) -> Outlook:
    held_from = None
    if past_due:
        at_least = _latest(past_due[0].due_at, case_ends_at)
        if grace_days is None:
            held_from = at_least
        elif warning is not None and warning.sent_at is not None:
            held_from = max(at_least, grace_ends_at(account, warning.sent_at, grace_days))
    return Outlook(past_due, grace_days, warning, held_from)


def _latest(*instants: datetime | None) -> datetime:
    return max(instant for instant in instants if instant is not None)


def grace_ends_at(account: Account, warned_at: datetime, grace_days: int) -> datetime:
    """The first instant after the last day that a warning of this instant leaves: days end where the account is."""
    day = warned_at.astimezone(ZoneInfo(zones.or_utc(account.time_zone))).date()
    return periods.first_instant_after(
        day + timedelta(days=grace_days), zones.or_utc(account.time_zone)
    )


def _warnings(
    accounts: Mapping[int, Account], past_due: Mapping[int, Iterable[Invoice]]
) -> dict[int, Message]:
    """The first warning of each account about something that is past due: one that was given up does not count."""
    about = {str(invoice.pk): pk for pk, invoices in past_due.items() for invoice in invoices}
    if not about:
        return {}
    written = (
        Message.objects.filter(account__in=past_due, kind=HOLD_WARNING)
        .exclude(state=Message.State.CANCELLED)
        .defer("subject", "body_text", "body_html")
        .order_by("created_at")
    )
    found: dict[int, list[Message]] = defaultdict(list)
    for message in written:
        if message.fact.split(":")[1] in about and not _went_elsewhere(message, accounts):
            found[message.account_id].append(message)
    return {
        pk: min(theirs, key=lambda message: message.sent_at is None) for pk, theirs in found.items()
    }


def _went_elsewhere(message: Message, accounts: Mapping[int, Account]) -> bool:
    """Whether it could not be delivered, and the account has another address by now."""
    is_dead = message.state == Message.State.DEAD
    return is_dead and message.recipient != accounts[message.account_id].email


def last_days_to_pay(accounts: Mapping[int, Account], *, as_of: datetime) -> dict[int, date]:
    """
    The day by which to pay what is due, by account: whoever does is not held, as far as is known now.

    It is left out of who owes nothing. A hold may come later, never before that day has ended.
    """
    seen = outlooks(accounts, as_of=as_of)
    entities = BillingEntity.objects.in_bulk({each.entity_id for each in accounts.values()})
    cases = {
        case.account_id: case
        for case in DunningCase.objects.filter(account__in=accounts, closed_at=None)
    }
    owed = Invoice.objects.filter(account__in=accounts, state="ISSUED", settled_at=None)
    due_at = owed.order_by("-due_at").values_list("account", "due_at")
    first_due = {pk: at for pk, at in due_at if at is not None}
    return {
        pk: _last_day(
            accounts[pk],
            entities[accounts[pk].entity_id],
            seen[pk],
            cases.get(pk),
            first_due_at=first_due_at,
            as_of=as_of,
        )
        for pk, first_due_at in first_due.items()
    }


def _last_day(
    account: Account,
    entity: BillingEntity,
    seen: Outlook,
    case: DunningCase | None,
    *,
    first_due_at: datetime,
    as_of: datetime,
) -> date:
    at_least = _latest(first_due_at, case.ends_at if case else None)
    held_from = seen.held_from
    if held_from is None and entity.grace_days is not None:
        # Nobody is warned while the card is still tried.
        warned_at = _latest(
            as_of,
            first_due_at + timedelta(days=entity.warn_days_after or 0),
            case.ends_at if case and case.next_try_at else None,
        )
        held_from = max(at_least, grace_ends_at(account, warned_at, entity.grace_days))
    last = (held_from or at_least) - timedelta(microseconds=1)
    return last.astimezone(ZoneInfo(zones.or_utc(account.time_zone))).date()
