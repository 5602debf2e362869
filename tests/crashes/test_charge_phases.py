"""
The crash matrix of docs/payments.md: killed at every point of a charge, it heals by itself.

Each test kills the process at a point, lets the sweeper heal it later, and holds the provider's own
book against ours: nobody charged twice, no payment lost, every attempt at its end.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta

import pytest

from accounts.models import Account, PaymentMethod
from billing import ledger, messages
from billing.models import CreditGrant, Payment, PaymentAttempt
from billing.payments import booking, charges
from billing.payments.charges import calls, preparing, rechecking, reserving, settling
from notifications.dispatcher.loop import Work
from notifications.models import Lane, Message
from tests import charging
from tests.billing.builders import assert_books_balance, bill, collect, credit, due, pay_by_hand
from tests.factories import AS_OF, account_using
from tests.provider import Killed, Provider

pytestmark = pytest.mark.django_db(transaction=True)

State = PaymentAttempt.State
ENDED = {State.SUCCEEDED, State.FAILED, State.RELEASED}


class Reaper:
    """Kills whoever comes by one of its points, once for each time it was told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, provider: Provider) -> None:
        self._monkeypatch = monkeypatch
        self._provider = provider
        self._at: str | None = None
        for moment, module, name in PLACES:
            self._watch(moment, module, name)

    def kills_at(self, point: str) -> None:
        self._at = point
        moment, call = point.split(" ", 1)
        if call in {"prepare", "submit", "read", "cancel", "find"}:
            getattr(self._provider, moment)(call, self._strike(point))

    @property
    def has_struck(self) -> bool:
        return self._at is None

    def rests(self) -> None:
        self._at = None

    def _watch(self, moment: str, module: object, name: str) -> None:
        real = getattr(module, name)
        strike = self._strike(f"{moment} {name}")

        def watched(*args, **kwargs):
            if moment == "before":
                strike()
            result = real(*args, **kwargs)
            if moment == "after":
                strike()
            return result

        self._monkeypatch.setattr(module, name, watched)

    def _strike(self, point: str) -> Callable[[], None]:
        def strike() -> None:
            if self._at == point:
                self._at = None
                raise Killed(point)

        return strike


# Where, besides the provider's calls, the process can be killed: between transactions and within.
PLACES = [
    ("after", reserving, "_reserved"),  # in the transaction that reserves
    ("before", calls, "_prepare"),
    ("before", preparing, "store_in"),
    ("after", Work, "_written"),  # stored, or settled
    ("after", rechecking, "_no_longer"),  # in the transaction that rechecks
    ("after", Work, "_rechecked"),
    ("before", calls, "_submit"),
    ("before", settling, "settle"),
    ("before", booking, "book_all"),  # these five in the transaction that settles
    ("after", ledger, "post"),
    ("before", messages, "payments_received"),
    ("after", messages, "payments_received"),
    ("after", messages, "payment_failed"),
    ("after", settling, "settle"),
    ("before", calls, "_cancel"),
]
FOR_ANY_CARD = [
    "after _reserved",
    "before _prepare",
    "before prepare",
    "after prepare",
    "before store_in",
    "after _written",
    "after _no_longer",
    "after _rechecked",
    "before _submit",
    "before submit",
    "after submit",
    "before settle",
    "after settle",
]
FOR_A_CARD_THAT_PAYS = [
    *FOR_ANY_CARD,
    "before book_all",
    "after post",
    "before payments_received",
    "after payments_received",
]
FOR_A_CARD_THAT_DECLINES = [
    *FOR_ANY_CARD,
    "before _cancel",
    "before cancel",
    "after cancel",
    "after payment_failed",
]
WHILE_HEALING = ["before find", "before read", "after read"]


@pytest.fixture
def reaper(monkeypatch, provider) -> Reaper:
    return Reaper(monkeypatch, provider)


def killed_collecting(account: Account, reaper: Reaper, point: str) -> None:
    reaper.kills_at(point)
    with pytest.raises(Killed):
        collect(account)


def heal(*, since: datetime = AS_OF) -> datetime:
    """The sweeper, once a minute, for an hour and more."""
    for minutes in (1, 2, 5, 15, 70):
        charging.drive_due(as_of=(as_of := since + timedelta(minutes=minutes, seconds=1)))
    return as_of


def charge_again_where_nothing_came_of_it(account: Account, *, as_of: datetime) -> None:
    """What the close does: its step is still open, so it asks again what is due now."""
    if due(account) and not account.attempts.filter(state__in=ENDED).exists():
        collect(account, as_of=as_of)


def assert_nothing_hangs() -> None:
    assert set(PaymentAttempt.objects.values_list("state", flat=True)) <= ENDED
    assert not PaymentAttempt.objects.exclude(next_action_at=None).exists()


def owing(amount: str = "12.34", *, card: str = "sandbox_visa") -> Account:
    account = account_using(amount, card=card)
    bill(account)
    return account


@pytest.mark.parametrize("point", FOR_A_CARD_THAT_PAYS)
class TestACardThatPays:
    def test_killed_there_is_charged_once_all_the_same(self, reaper, sandbox, point):
        account = owing("12.34")

        killed_collecting(account, reaper, point)
        charge_again_where_nothing_came_of_it(account, as_of=heal())

        assert Payment.objects.get().amount_minor == 1234
        assert due(account) == 0
        assert Message.objects.get().kind == "RECEIPT"
        assert_nothing_hangs()
        assert_books_balance(sandbox)

    def test_killed_there_and_paid_by_hand_before_it_heals(self, reaper, sandbox, point):
        account = owing("12.34")

        killed_collecting(account, reaper, point)
        had_moved = any(seen.status == "SUCCEEDED" for seen in sandbox.book())
        pay_by_hand(account, 1234)
        heal()

        # Money that had moved is real and kept as credit; nothing is charged after it was paid.
        assert credit(account) == (1234 if had_moved else 0)
        assert due(account) == 0
        assert_nothing_hangs()
        assert_books_balance(sandbox)


@pytest.mark.parametrize("point", FOR_A_CARD_THAT_DECLINES)
def test_a_decline_killed_there_is_told_once(reaper, sandbox, point):
    account = owing(card="sandbox_insufficient")

    killed_collecting(account, reaper, point)
    charge_again_where_nothing_came_of_it(account, as_of=heal())

    attempt = PaymentAttempt.objects.get()
    assert (attempt.state, attempt.decline_code) == (State.FAILED, "insufficient_funds")
    assert Message.objects.get().kind == "PAYMENT_FAILED"
    assert "SUCCEEDED" not in {seen.status for seen in sandbox.book()}
    assert_nothing_hangs()
    assert_books_balance(sandbox)


@pytest.mark.parametrize("again_at", [*WHILE_HEALING, *FOR_A_CARD_THAT_PAYS])
@pytest.mark.parametrize("point", ["after prepare", "before _submit"])
def test_killed_again_while_it_heals(reaper, sandbox, point, again_at):
    account = owing("12.34")
    killed_collecting(account, reaper, point)

    reaper.kills_at(again_at)
    with suppress(Killed):  # not every point lies on the way from there
        charging.drive_due(as_of=AS_OF + timedelta(minutes=2))
    reaper.rests()
    charge_again_where_nothing_came_of_it(account, as_of=heal(since=AS_OF + timedelta(minutes=2)))

    assert Payment.objects.get().amount_minor == 1234
    assert_nothing_hangs()
    assert_books_balance(sandbox)


@pytest.mark.parametrize(
    "point", ["before store_in", "after _written", "before cancel", "after cancel"]
)
def test_killed_giving_up_a_charge_whose_card_was_removed(reaper, provider, sandbox, point):
    account = owing()
    provider.after("prepare", lambda: remove_card(account))

    killed_collecting(account, reaper, point)
    heal()

    assert PaymentAttempt.objects.get().state == State.RELEASED
    assert "SUCCEEDED" not in {seen.status for seen in sandbox.book()}
    assert_nothing_hangs()


def remove_card(account: Account) -> None:
    PaymentMethod.objects.filter(account=account).update(state="REMOVED", removed_at=AS_OF)


def test_a_batch_killed_in_the_middle_heals_every_account(reaper, sandbox):
    accounts = [owing() for _ in range(3)]
    reaper.kills_at("after post")

    with pytest.raises(Killed):
        charging.collect_all([charges.Request(a.pk) for a in accounts], as_of=AS_OF)
    heal()

    assert [due(account) for account in accounts] == [0, 0, 0]
    assert Payment.objects.count() == 3
    assert not CreditGrant.objects.exists()
    assert_books_balance(sandbox)


def test_the_provider_may_be_away_for_longer_than_it_remembers_a_key(provider, sandbox):
    account = owing("12.34")
    provider.after("submit", ConnectionResetError())
    collect(account)
    for _ in range(6):
        provider.before("read", ConnectionResetError())
    heal()
    provider.heals()
    # A day later its lane has long been open again; that goes by the database's clock.
    Lane.objects.all().delete()

    charging.drive_due(as_of=AS_OF + timedelta(hours=30))

    assert PaymentAttempt.objects.get().state == State.SUCCEEDED
    assert_books_balance(sandbox)
