"""
Send calls to payment providers through their lanes (notifications/lanes).

Code that takes up waiting work asks `let_begin` first. Every answer is noted, so that the breaker opens and the
lane slows down whatever code made the calls. Attempts, refunds and steps of the close ask in their claim
(notifications/dispatcher/claims.py, close/engine/claiming.py). Calls while a customer enters or removes a card are few, and
do not go through the lanes.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import TypeVar

from django.db.models import Model, OuterRef, QuerySet, Subquery, Value
from django.db.models.functions import Coalesce

from accounts.models import PaymentMethod
from billing import gateways
from notifications import lanes
from notifications.dispatcher import Heard

Row = TypeVar("Row", bound=Model)

# A sweep comes once a minute: by a burst of one alone it would take up one row in each.
AT_LEAST = 10
# A refusal is an answer as well.
REFUSALS = (gateways.RefundRefused, gateways.Misconfigured)
# It said nothing, as far as anybody knows.
UNANSWERED = (gateways.OutcomeUnknown, gateways.NotSent, OSError)


def let_begin(due: "QuerySet[Row]", *, limit: int, is_read: bool = False) -> list[Row]:
    """
    Say which of the due rows may be begun now: of each gateway's the first, as many as its lane grants.

    One gateway that is down or slow keeps no other's rows from their turn. A row says its `gateway`, which may
    be annotated; where that is empty nobody is called. `is_read`: they ask, and move nothing; see `lanes.grant`.
    """
    found: list[Row] = []
    for gateway in due.order_by("gateway").values_list("gateway", flat=True).distinct():
        theirs = due.filter(gateway=gateway)
        found += _first(theirs, gateway, limit, is_read=is_read) if gateway else theirs[:limit]
    return found


def _first(due: "QuerySet[Row]", gateway: str, limit: int, *, is_read: bool) -> list[Row]:
    granted = lanes.grant(gateway, wanted=limit, is_read=is_read, at_least=AT_LEAST)
    rows = list(due[: granted.count])
    lanes.give_back(granted, unused=granted.count - len(rows))
    return rows


def may_ask(gateway: str) -> bool:
    """Say whether one thing that only asks, such as a reconciliation, may begin now."""
    return lanes.grant(gateway, wanted=1, is_read=True).count > 0


def gateway_of(account: str) -> Coalesce:
    """The gateway that an account is charged through now, by the name of its column; empty: nobody is called."""
    card = PaymentMethod.objects.defaults().filter(account=OuterRef(account))
    return Coalesce(Subquery(card.values("gateway")[:1]), Value(""))


def shut(names: Iterable[str]) -> dict[str, str]:
    """Through which of these gateways nobody can pay now, and why: it does not answer, or is paused by hand."""
    return {name: because for name in sorted(set(names)) if (because := lanes.why_shut(name))}


def nobody_can_pay(account_ids: Iterable[int]) -> dict[int, str]:
    """The accounts whose customer cannot pay by card now, and why: the provider of theirs, or of new ones, is shut."""
    ids = list(account_ids)
    theirs = PaymentMethod.objects.default_of(ids).gateway_by_account()
    named = {pk: theirs.get(pk, gateways.for_cards()) for pk in ids}
    closed = shut(named.values())
    return {pk: closed[gateway] for pk, gateway in named.items() if gateway in closed}


def note(said: Iterable[tuple[str, object]]) -> None:
    """
    Tell each gateway's lane how its calls went: what came back of each, or what it raised.

    Call it with no transaction open. Errors of our own making say nothing of the provider, nor does what was
    not sent any more.
    """
    by_gateway: dict[str, list[object]] = defaultdict(list)
    for gateway, answer in said:
        by_gateway[gateway].append(answer)
    for gateway, answers in sorted(by_gateway.items()):
        waits = [a.retry_after_seconds for a in answers if isinstance(a, gateways.RateLimited)]
        lanes.note_answers(
            gateway,
            answered=sum(is_answered(answer) is True for answer in answers),
            unanswered=sum(is_answered(answer) is False for answer in answers),
            throttled_for=max(waits, default=None),
        )


def heard(answer: object) -> Heard:
    """Say what an answer tells of a provider: errors of our own making say nothing."""
    pause = answer.retry_after_seconds if isinstance(answer, gateways.RateLimited) else None
    return Heard(answered=is_answered(answer), slow_down_seconds=pause)


def is_answered(answer: object) -> bool | None:
    """Say whether a provider has answered, by what a call returned or raised; None: that says nothing of it."""
    if not isinstance(answer, Exception) or isinstance(answer, REFUSALS):
        return True
    return False if isinstance(answer, UNANSWERED) else None
