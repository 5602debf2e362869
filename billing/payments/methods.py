"""
Cards and mandates of an account, both called cards here: add, make the default, remove, block.

Only the default card is ever charged. The first card becomes the default; after that the customer
chooses. When the default is removed, no other card replaces it by itself: nobody is charged on a card
they did not choose for it. The pages say so, and the close skips with "there is no card".
A customer may have chosen that another is charged where the default is gone at its provider
(`Account.charges_other_cards`). Else they are told, and dunning waits for a card.

One rule, said before a card is added or chosen: where something is overdue, or a declined card is tried again, it is
charged at once. What still waits to be confirmed with another card is cancelled first, and what was to be charged by
us so is charged to this one.

A card whose bank says never to charge it again is blocked for ever, and so is its token on any account.
"""

import logging
from collections.abc import Iterable
from datetime import datetime

from django.db import transaction
from django.db.models import Max, QuerySet

from accounts import pauses, timeline
from accounts.models import Account, PaymentMethod
from billing import dunning, gateways, ledger, locks, messages
from billing.models import AccountClosure, DunningCase, PaymentAttempt

logger = logging.getLogger(__name__)
State = PaymentMethod.State


class AlreadyAdded(Exception):
    """The account has this card: the form was sent twice."""

    def __init__(self, method: PaymentMethod) -> None:
        super().__init__(f"{method} is on the account already")
        self.method = method


class CardExpired(ValueError):
    """The card's last month is over, or the mandate has ended."""


class CardBlocked(Exception):
    """The card's bank has said never to charge it again."""


class NoSuchCard(LookupError):
    """The account has no such card, or it was removed or blocked meanwhile."""


@transaction.atomic(durable=True)
def add_card(
    *,
    account_id: int,
    gateway: str,
    token: str,
    brand: str,
    last_four: str,
    actor: str,
    as_of: datetime,
    expiry_month: int | None = None,
    expiry_year: int | None = None,
    mandate_status: str = "",
    customer_ref: str = "",
    make_default: bool = False,
) -> PaymentMethod:
    """
    Store a card that the gateway knows by this token. The first one becomes the default.

    A card has an expiry; a mandate a status instead.
    What a declined card has left unpaid is soon charged to the new default.

    :raises AlreadyAdded: if the account has this card.
    :raises CardExpired: if its last month is over, or the mandate has ended.
    :raises CardBlocked: if it is blocked, on this account or another.
    :raises gateways.Misconfigured: if there is no such gateway.
    """
    gateways.get(gateway)
    account = locks.account_for_update(account_id)
    active = list(PaymentMethod.objects.filter(account=account, state=State.ACTIVE))
    for method in active:
        if (method.gateway, method.token) == (gateway, token):
            raise AlreadyAdded(method)
    added = PaymentMethod(
        account=account,
        gateway=gateway,
        token=token,
        customer_ref=customer_ref,
        brand=brand,
        last_four=last_four,
        expiry_month=expiry_month,
        expiry_year=expiry_year,
        mandate_status=mandate_status,
    )
    if added.has_expired(as_of):
        raise CardExpired(f"{added} is not good any more: {added.good_until}")
    if blocked_tokens([added]):
        raise CardBlocked(f"{added} is blocked")
    added.save()
    _record(added, "card.added", f"Card added: {added}", actor=actor)
    if make_default or not active:
        _make_default(added, actor=actor, as_of=as_of)
    return added


@transaction.atomic(durable=True)
def make_default(*, account_id: int, method_id: int, actor: str, as_of: datetime) -> PaymentMethod:
    """
    Charge this card from now on. If it is the default already, nothing changes.

    What a declined card has left unpaid is soon charged to this one.

    :raises NoSuchCard: if the account has no such card, or it was removed or blocked.
    :raises CardBlocked: if it is blocked on another account.
    """
    locks.account_for_update(account_id)
    method = _card_of(account_id, method_id, State.ACTIVE)
    if blocked_tokens([method]):
        raise CardBlocked(f"{method} is blocked")
    if not method.is_default:
        _make_default(method, actor=actor, as_of=as_of)
    return method


@transaction.atomic(durable=True)
def remove_card(*, account_id: int, method_id: int, actor: str, as_of: datetime) -> PaymentMethod:
    """
    Remove a card. A charge that is on its way with it goes on.

    :raises NoSuchCard: if the account has no such card, or it was removed.
    """
    locks.account_for_update(account_id)
    method = _card_of(account_id, method_id, State.ACTIVE, State.BLOCKED)
    method.state = State.REMOVED
    method.removed_at = as_of
    method.is_default = False
    method.save(update_fields=["state", "removed_at", "is_default"])
    _record(method, "card.removed", f"Card removed: {method}", actor=actor)
    dunning.look_at_waiting_payments([account_id], as_of=as_of)
    return method


@transaction.atomic(durable=True)
def note_gone(*, account_id: int, method_id: int, as_of: datetime) -> PaymentMethod:
    """
    Remove a card that its provider has no more, and tell the customer, if it was the one to be charged.

    :raises NoSuchCard: if the account has no such card, or it was removed or blocked.
    """
    account = locks.account_for_update(account_id)
    method = _card_of(account_id, method_id, State.ACTIVE)
    was_default = method.is_default
    other = lose_card(method, as_of=as_of)
    if was_default:
        due_minor = ledger.standing(account_id, as_of=as_of).due_minor
        messages.card_gone(method, other, account=account, due_minor=due_minor, as_of=as_of)
    return method


def lose_card(method: PaymentMethod, *, as_of: datetime) -> PaymentMethod | None:
    """
    Remove a card that its provider has no more. In the caller's transaction, with the account locked; twice is once.

    Returns the card that is charged instead, where the account allows that and has one. The caller tells the
    customer.
    """
    current = PaymentMethod.objects.select_related("account").get(pk=method.pk)
    if current.state != State.ACTIVE:
        return None
    was_default = current.is_default
    current.state = State.REMOVED
    current.removed_at = current.gone_at = as_of
    current.is_default = False
    current.save(update_fields=["state", "removed_at", "gone_at", "is_default"])
    _record(current, "card.removed", f"Card gone at its provider: {current}", actor="provider")
    dunning.look_at_waiting_payments([current.account_id], as_of=as_of)
    other = _other_card(current.account, as_of=as_of) if was_default else None
    if other is not None:
        _make_default(other, actor="system", as_of=as_of)
    return other


def lost_untold(account_ids: Iterable[int]) -> dict[int, PaymentMethod]:
    """
    By account, the card that is gone at its provider, where none is charged now and no case has followed that yet.

    Its holder did nothing, and nothing was charged in vain.
    """
    ids = set(account_ids)
    ids -= set(PaymentMethod.objects.default_of(ids).values_list("account", flat=True))
    gone = PaymentMethod.objects.filter(account__in=ids, gone_at__isnull=False)
    latest = {method.account_id: method for method in gone.order_by("gone_at", "pk")}
    followed = DunningCase.objects.filter(account__in=latest).values("account")
    since = dict(followed.annotate(at=Max("opened_at")).values_list("account", "at"))
    return {
        pk: method
        for pk, method in latest.items()
        if method.gone_at and (pk not in since or since[pk] < method.gone_at)
    }


def _other_card(account: Account, *, as_of: datetime) -> PaymentMethod | None:
    """The newest that can be charged, if its holder wants that."""
    if not account.charges_other_cards:
        return None
    cards = list(PaymentMethod.objects.filter(account=account, state=State.ACTIVE).order_by("-pk"))
    blocked = blocked_tokens(cards)
    good = (c for c in cards if (c.gateway, c.token) not in blocked and not c.has_expired(as_of))
    return next(good, None)


@transaction.atomic(durable=True)
def charge_other_cards(*, account_id: int, allowed: bool, actor: str) -> None:
    """Write down whether another card may be charged, once the default one is gone at its provider."""
    account = locks.account_for_update(account_id)
    if account.charges_other_cards == allowed:
        return
    account.charges_other_cards = allowed
    account.save(update_fields=["charges_other_cards"])
    timeline.record(
        timeline.event(
            account_id=account_id,
            kind="card.others",
            summary=f"Another card may {'be' if allowed else 'not be'} charged once the default one is gone",
            actor=actor,
        )
    )


def detach(method: PaymentMethod) -> None:
    """
    Have the gateway forget a removed card. A network call: no transaction may be open.

    If it fails, no harm is done: we do not charge a removed card.
    """
    is_used = PaymentMethod.objects.filter(
        gateway=method.gateway, token=method.token, state=State.ACTIVE
    )
    if is_used.exists():
        return
    try:
        gateways.get(method.gateway).detach(method.token)
    except Exception as error:  # noqa: BLE001 - whatever the call raises, the card is removed
        logger.warning("card %s is removed, but not detached: %r", method.pk, error)


@transaction.atomic(durable=True)
def update_card(
    *, account_id: int, method_id: int, seen: gateways.Method, actor: str, as_of: datetime
) -> PaymentMethod:
    """
    Write down how a card looks now that its bank has renewed it.

    A blocked card stays blocked: its holder enters the new one. What the card left unpaid is charged soon.

    :raises NoSuchCard: if the account has no such card, or it was removed or blocked.
    """
    locks.account_for_update(account_id)
    method = _card_of(account_id, method_id, State.ACTIVE)
    looks = {
        "brand": seen.brand,
        "last_four": seen.last_four,
        "expiry_month": seen.expiry_month,
        "expiry_year": seen.expiry_year,
        "mandate_status": seen.mandate_status,
    }
    if looks == {name: getattr(method, name) for name in looks}:
        return method
    for name, value in looks.items():
        setattr(method, name, value)
    method.save(update_fields=list(looks))
    what = "Mandate" if method.is_mandate else "Card"
    summary = f"{what} updated by its bank: {method}, {method.good_until}"
    _record(method, "card.updated", summary, actor=actor)
    if method.is_default:
        dunning.try_again_soon(account_id, as_of=as_of)
    return method


def block_card(method: PaymentMethod, *, because: str, as_of: datetime) -> None:
    """
    Never charge a card again. In the caller's transaction, with the account locked; doing it twice changes nothing.

    A card that was removed meanwhile stays removed; its token is blocked all the same.
    """
    current = PaymentMethod.objects.get(pk=method.pk)
    if current.blocked_at is not None:
        return
    current.blocked_at = as_of
    current.blocked_because = because[:300]
    current.is_default = False
    if current.state == State.ACTIVE:
        current.state = State.BLOCKED
    current.save(update_fields=["blocked_at", "blocked_because", "is_default", "state"])
    _record(current, "card.blocked", f"Card blocked for ever: {current}, {because}", actor="system")


def blocked_tokens(methods: Iterable[PaymentMethod]) -> set[tuple[str, str]]:
    """Gateway and token of the cards among these that are blocked on any account."""
    return PaymentMethod.objects.blocked(methods)


def _card_of(account_id: int, method_id: int, *states: str) -> PaymentMethod:
    """
    The account's card of this id, if it is in one of the states.

    :raises NoSuchCard: if it is not.
    """
    try:
        return PaymentMethod.objects.get(pk=method_id, account=account_id, state__in=states)
    except PaymentMethod.DoesNotExist:
        raise NoSuchCard(method_id) from None


def _make_default(method: PaymentMethod, *, actor: str, as_of: datetime) -> None:
    # The old one first: the constraint allows only one default.
    PaymentMethod.objects.filter(account=method.account_id, is_default=True).update(
        is_default=False
    )
    method.is_default = True
    method.save(update_fields=["is_default"])
    _record(method, "card.default", f"Default card: {method}", actor=actor)
    if _is_not_charged(method.account_id):
        dunning.try_again_soon(method.account_id, as_of=as_of)
    else:
        standing = ledger.standing(method.account_id, as_of=as_of)
        dunning.try_another_card(method.account, standing)
    # The sweep gives them up: see charges/rechecking.py.
    _waiting_for_customer(method.account_id).exclude(payment_method=method).update(
        next_action_at=as_of
    )


def charged_at_once(account_id: int, *, as_of: datetime) -> int:
    """
    What is charged to another card as soon as it is the one to charge, in minor units; 0 for nothing.

    Where something is overdue or declined, or where a charge of ours waits to be confirmed with the one before.
    """
    standing = ledger.standing(account_id, as_of=as_of)
    ours = _waiting_for_customer(account_id).exclude(kind=PaymentAttempt.Kind.ON_SESSION)
    if standing.due_minor < standing.least_minor or _is_not_charged(account_id):
        return 0
    at_once = dunning.is_tried_at_once(account_id, standing) or ours.exists()
    return standing.due_minor if at_once else 0


def _is_not_charged(account_id: int) -> bool:
    """Whether nothing is charged by itself: charging is paused, or the account is closed."""
    is_closed = AccountClosure.objects.standing([account_id]).exists()
    return is_closed or bool(pauses.because_of([account_id]))


def _waiting_for_customer(account_id: int) -> QuerySet[PaymentAttempt]:
    return PaymentAttempt.objects.filter(
        account=account_id, state=PaymentAttempt.State.REQUIRES_ACTION
    )


def _record(method: PaymentMethod, kind: str, summary: str, *, actor: str) -> None:
    timeline.record(
        timeline.event(
            account_id=method.account_id,
            kind=kind,
            summary=summary,
            actor=actor,
            payment_method=method.pk,
        )
    )
