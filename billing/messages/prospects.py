"""
What happens next to what accounts owe, as mails say it: facts read for many accounts, a query each.

Who is told "you need not do anything" does nothing. So whatever could make that untrue is looked at here:
what is on its way, what was declined, which card there is now, and who or what has paused charging it.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo

from django.db.models import prefetch_related_objects

from accounts.models import Account, ChargingPause, Hold, PaymentMethod
from billing import gateways, ledger, step_kinds
from billing.charge_protocol import CUSTOMER_MAY_TAKE, FAULT_OF_OURS
from billing.ledger import Standing
from billing.messages import outlook
from billing.messages.letters import attempt_link
from billing.models import AccountClosure, DunningCase, GatewayGuard, PaymentAttempt, Step
from notifications import lanes
from notifications.formats import Reader

State = PaymentAttempt.State
# Somebody drives it to its end now.
AT_WORK = frozenset({State.RESERVED, State.PREPARED, State.SUBMITTED})


class Next(StrEnum):
    """What happens next, and so what the customer is asked for."""

    NOTHING = "nothing is due"
    CONFIRM = "their bank asks them to confirm a payment"
    COLLECTED = "a debit is collected on its day"
    ON_ITS_WAY = "a payment is on its way"
    CHARGED = "the card is charged by itself"
    WAITS = "the card is charged when its provider is open again"
    TRIED_AGAIN = "the card is tried again on a day"
    CARRIED_OVER = "it is too little to be charged"
    PAUSED = "the account is not charged by itself now"
    PAY = "they pay"


# Nobody is asked for money that comes by itself, or cannot be charged.
ASKED_TO_PAY = frozenset({Next.TRIED_AGAIN, Next.PAUSED, Next.PAY})


@dataclass(frozen=True, kw_only=True)
class Prospect:
    """What is known of how an account's debt is paid, at one instant."""

    account: Account
    standing: Standing
    # What is in flight, with its card.
    in_flight: PaymentAttempt | None = None
    # The account's open dunning case.
    case: DunningCase | None = None
    # The last attempt, with its card, where that was declined and not for a fault of ours.
    declined: PaymentAttempt | None = None
    # The card that would be charged, if it can be.
    card: PaymentMethod | None = None
    is_paused: bool = False
    # Of all gateways concerned, those through which nothing is charged now.
    closed: Collection[str] = ()
    # Less is due than the card can be charged.
    is_too_little: bool = False
    is_held: bool = False
    # The last day to pay before a hold, as far as it is known.
    last_day: date | None = None
    # A step of a close will charge it, or nobody knows better.
    is_charged_by_close: bool = True

    @property
    def today(self) -> Any:
        """The day it is where the account is."""
        return self.standing.as_of.astimezone(ZoneInfo(self.account.time_zone)).date()

    def next(self, *, invoiced_at: datetime | None = None) -> Next:
        """
        Say what happens next.

        `invoiced_at`: it is about an invoice of then, which its close charges unless that was declined since.
        """
        if self.standing.due_minor <= 0:
            return Next.NOTHING
        if self.in_flight is not None and (on_its_way := self._on_its_way(self.in_flight)):
            return on_its_way
        if self.is_paused:
            return Next.PAUSED if self.card else Next.PAY
        if self.is_too_little:
            return Next.CARRIED_OVER
        if self.card is None:
            return Next.PAY
        if (
            invoiced_at is not None
            and self.is_charged_by_close
            and not self.was_declined_since(invoiced_at)
        ):
            # Whatever an older one is in dunning for, too.
            return Next.WAITS if self.card.gateway in self.closed else Next.CHARGED
        return self._of_case(self.case, self.card) if self.case is not None else Next.PAY

    def was_declined_since(self, then: datetime) -> bool:
        """Whether a charge was declined since then, and nothing has come of it yet."""
        return self.declined is not None and self.declined.created_at >= then

    def is_declined(self, card: PaymentMethod | None) -> bool:
        """Whether it is the card that was declined last."""
        return self.declined is not None and self.declined.payment_method == card

    def _on_its_way(self, attempt: PaymentAttempt) -> Next | None:
        """How it goes on with what is in flight; None where that will be given up."""
        match attempt.state:
            case State.REQUIRES_ACTION:
                return Next.CONFIRM if stops(attempt, self) is None else None
            case State.CANCELING:
                return None
            case State.RESERVED | State.PREPARED:
                if stops(attempt, self) is not None:
                    return None
                if attempt.charge_date is not None and self.today < attempt.charge_date:
                    return Next.COLLECTED
                if attempt.gateway in self.closed:
                    return Next.WAITS
            case State.SUBMITTED:
                pass
            case _:
                return Next.ON_ITS_WAY
        # A close at work on it is told as before it began.
        return Next.CHARGED if attempt.kind == PaymentAttempt.Kind.AUTO else Next.ON_ITS_WAY

    def _of_case(self, case: DunningCase, card: PaymentMethod) -> Next:
        if case.next_try_at is None:
            return Next.PAY
        if card.gateway in self.closed and case.next_try_at <= self.standing.as_of:
            return Next.WAITS
        return Next.TRIED_AGAIN


def stops(attempt: PaymentAttempt, prospect: Prospect) -> str | None:
    """
    Why an attempt that still can be given up will be, when it is rechecked next; None where it will not.

    It is what billing/payments/charges/rechecking.py looks at.
    """
    standing, method = prospect.standing, attempt.payment_method
    if standing.due_minor <= 0:
        return "settled meanwhile"
    if prospect.is_paused and attempt.kind != PaymentAttempt.Kind.ON_SESSION:
        return "charging is paused"
    if method.state != PaymentMethod.State.ACTIVE:
        return "the card was removed or blocked"
    if method.has_expired(standing.as_of):
        return "the card has expired"
    if standing.due_minor < attempt.amount_minor:
        return "less is due than it asks for"
    if attempt.state == State.REQUIRES_ACTION and confirm_until(attempt) <= standing.as_of:
        return "the time to confirm it is over"
    return None


def confirm_until(attempt: PaymentAttempt) -> datetime:
    """Until when a customer may confirm an attempt with their bank."""
    return (attempt.submitted_at or attempt.created_at) + CUSTOMER_MAY_TAKE


# --- in words


def words(
    prospect: Prospect, reader: Reader, *, invoiced_at: datetime | None = None
) -> dict[str, Any]:
    """What happens next, as emails/_next.html and emails/_next.txt ask for it."""
    comes = prospect.next(invoiced_at=invoiced_at)
    attempt, card, case = prospect.in_flight, prospect.card, prospect.case
    on_its_way = attempt if comes in {Next.CONFIRM, Next.COLLECTED, Next.ON_ITS_WAY} else None
    if comes in {Next.WAITS, Next.CHARGED} and attempt is not None and attempt.state in AT_WORK:
        card = attempt.payment_method
    is_charged = comes is Next.CHARGED
    return {
        "next_amount": reader.money(on_its_way.amount_minor, on_its_way.currency)
        if on_its_way
        else "",
        "next_card": str(on_its_way.payment_method if on_its_way else card or ""),
        "next_day": reader.day(on_its_way.charge_date)
        if on_its_way and on_its_way.charge_date and comes is Next.COLLECTED
        else "",
        "confirm_until": reader.instant(confirm_until(on_its_way))
        if on_its_way and comes is Next.CONFIRM
        else "",
        "confirm_link": attempt_link(on_its_way) if on_its_way and comes is Next.CONFIRM else "",
        "is_on_its_way": comes is Next.ON_ITS_WAY,
        "card_is_charged": is_charged and card is not None and not card.is_mandate,
        "mandate_is_charged": is_charged and card is not None and card.is_mandate,
        "waits_for_provider": comes is Next.WAITS,
        "is_paused": comes is Next.PAUSED,
        "is_carried_over": comes is Next.CARRIED_OVER,
        "next_try": reader.date(case.next_try_at)
        if comes is Next.TRIED_AGAIN and case is not None and case.next_try_at
        else "",
        # By another card than was declined: then it is named.
        "next_try_card": str(card)
        if comes is Next.TRIED_AGAIN and not prospect.is_declined(card)
        else "",
        "asks_to_pay": comes in ASKED_TO_PAY,
    }


# --- read


def prospect_of(account: Account, *, due_minor: int, as_of: datetime) -> Prospect:
    """The prospect of one (locked) account that owes this much, for a letter that is written now."""
    prefetch_related_objects([account], "entity")
    standing = replace(ledger.standing(account.pk, as_of=as_of), due_minor=due_minor)
    return prospects({account.pk: account}, {account.pk: standing}, as_of=as_of)[account.pk]


def prospects(
    accounts: Mapping[int, Account], standings: Mapping[int, Standing], *, as_of: datetime
) -> dict[int, Prospect]:
    """The prospects of (locked) accounts, by id: a query for each fact, however many accounts."""
    owing = [pk for pk in accounts if standings[pk].due_minor > 0]
    in_flight = _in_flight(owing)
    cards = _chargeable(owing, as_of=as_of)
    names = {card.gateway for card in cards.values()} | {a.gateway for a in in_flight.values()}
    cases = {
        case.account_id: case
        for case in DunningCase.objects.filter(account__in=owing, closed_at=None)
    }
    declined, closed = _declined(owing), _closed(names)
    paused = set(
        ChargingPause.objects.filter(account__in=owing, resumed_at=None).values_list(
            "account", flat=True
        )
    )
    held = set(
        Hold.objects.filter(
            account__in=owing, reason=Hold.Reason.OVERDUE, lifted_at=None
        ).values_list("account", flat=True)
    )
    passed_by = _passed_by_their_close(owing)
    last_days = outlook.last_days_to_pay({pk: accounts[pk] for pk in cases}, as_of=as_of)
    return {
        pk: Prospect(
            account=account,
            standing=standings[pk],
            in_flight=in_flight.get(pk),
            case=cases.get(pk),
            declined=declined.get(pk),
            card=cards.get(pk),
            is_paused=pk in paused,
            closed=closed,
            is_too_little=standings[pk].is_too_little
            or (pk in cards and _is_too_little(standings[pk], cards[pk])),
            is_held=pk in held,
            last_day=last_days.get(pk),
            is_charged_by_close=pk not in passed_by,
        )
        for pk, account in accounts.items()
    }


def _in_flight(account_ids: Collection[int]) -> dict[int, PaymentAttempt]:
    attempts = PaymentAttempt.objects.filter(
        account__in=account_ids, state__in=PaymentAttempt.IN_FLIGHT
    ).select_related("payment_method")
    return {attempt.account_id: attempt for attempt in attempts}


def _chargeable(account_ids: Collection[int], *, as_of: datetime) -> dict[int, PaymentMethod]:
    """By account: the card or mandate that is charged by itself, if it can be. Of a closed account none is."""
    closed = AccountClosure.objects.accounts_among(account_ids)
    cards = list(PaymentMethod.objects.default_of(account_ids).exclude(account__in=closed))
    blocked = PaymentMethod.objects.blocked(cards)
    return {
        card.account_id: card
        for card in cards
        if not card.has_expired(as_of) and (card.gateway, card.token) not in blocked
    }


def _declined(account_ids: Collection[int]) -> dict[int, PaymentAttempt]:
    """By account: the newest attempt, where it was declined, even if that is not over at the provider yet."""
    newest = (
        PaymentAttempt.objects.filter(account__in=account_ids)
        .select_related("payment_method")
        .order_by("account", "-created_at", "-pk")
        .distinct("account")
    )
    return {
        attempt.account_id: attempt
        for attempt in newest
        if attempt.state in {State.FAILED, State.CANCELING}
        and attempt.decline_code
        and attempt.decline_class not in FAULT_OF_OURS
    }


def _closed(names: Iterable[str]) -> set[str]:
    """The gateways that wait for their provider to be listed, do not answer, or are paused by hand."""
    concerned = set(names)
    listed = GatewayGuard.objects.filter(gateway__in=concerned, paused_at__isnull=False)
    return lanes.shut_among(concerned) | set(listed.values_list("gateway", flat=True))


def _is_too_little(standing: Standing, card: PaymentMethod) -> bool:
    try:
        gateway = gateways.get(card.gateway)
    except gateways.Misconfigured:
        # It is said where it is charged.
        return False
    amount_minor = gateway.chargeable_minor(standing.due_minor, standing.currency)
    return amount_minor < gateway.capabilities.minimum_minor.get(standing.currency, 1)


def _passed_by_their_close(account_ids: Collection[int]) -> set[int]:
    """The accounts whose last close has ended its charge step: no close charges them before the next one."""
    newest = (
        Step.objects.filter(account__in=account_ids, kind=step_kinds.CHARGE)
        .order_by("account", "-pk")
        .distinct("account")
        .values_list("account", "state")
    )
    return {account for account, state in newest if state not in Step.OPEN}
