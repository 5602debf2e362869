"""The card provider is down for six hours in the middle of a close, then comes back. Hours are the test's own."""

import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db.models.functions import Now

from accounts.models import Account, Hold
from billing import gateways
from billing.gateways import OutcomeUnknown
from billing.gateways.standins.sandbox import SandboxGateway
from billing.models import DunningCase, GatewayGuard, Step
from billing.payments import charges, retries
from billing.workers import doorbell
from notifications import dispatcher, lanes
from notifications.lanes import lane_clock
from notifications.models import Lane, Message
from tests.billing.builders import due
from tests.closing import assert_books_hold, finish, start_close, work, work_once
from tests.factories import AS_OF, EntityFactory, account_using

pytestmark = pytest.mark.django_db(transaction=True)

# Said by the provider itself, without a call.
KNOWN = {"name", "capabilities", "chargeable_minor", "book", "parse_webhook"}
MINUTE = timedelta(minutes=1)


class Line:
    """The line to the sandbox: counts the calls, and takes none through while it is down."""

    def __init__(self, sandbox: SandboxGateway) -> None:
        self._sandbox = sandbox
        self.is_down = False
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        if name in KNOWN:
            return getattr(self._sandbox, name)
        return self._call(name)

    def _call(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **facts: Any) -> Any:
            self.calls[name] += 1
            if self.is_down:
                raise OutcomeUnknown("no answer")
            return getattr(self._sandbox, name)(*args, **facts)

        return call


class World:
    """Time, a worker, and the sweeper once a minute."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at = AS_OF
        monkeypatch.setattr(lane_clock, "now", lambda: self.at)

    def minute_passes(self, minutes: int = 1) -> None:
        self.at += minutes * MINUTE
        # The guard goes by the database's clock: for it time passes too.
        GatewayGuard.objects.update(checked_at=Now() - timedelta(hours=1))
        work_once("CHARGE", as_of=self.at)
        self._take_rows()
        retries.retry_due(as_of=self.at)
        work_once("HOLD", as_of=self.at)

    def second_passes(self) -> None:
        self.at += timedelta(seconds=1)
        work_once("CHARGE", as_of=self.at)

    def _take_rows(self) -> None:
        """As the sweeper does, through their lane; it waits until the next minute where none may begin."""
        charges.collect_the_rest(as_of=self.at)
        with suppress(dispatcher.Throttled):
            dispatcher.run(doorbell.CHARGE, clock=lambda: self.at, until=lambda: False)


@pytest.fixture
def line(monkeypatch, sandbox) -> Line:
    line = Line(sandbox)
    real = gateways.get
    monkeypatch.setattr(gateways, "get", lambda name: line if name == "sandbox" else real(name))
    return line


@pytest.fixture
def world(monkeypatch) -> World:
    return World(monkeypatch)


def in_dunning(as_of: datetime) -> tuple[Account, Account]:
    """One whose card is tried again in an hour, with a better one by now; one whose schedule ends in an hour."""
    entity = EntityFactory(slug="dunning", invoice_prefix="DU", retry_days=[3, 7])
    tried, ending = (
        account_using("9.00", card="sandbox_declined", entity=entity) for _ in range(2)
    )
    finish(start_close(entity=entity))
    for account in (tried, ending):
        account.payment_methods.update(token="sandbox_visa")
    DunningCase.objects.filter(account=tried).update(next_try_at=as_of + 60 * MINUTE)
    DunningCase.objects.filter(account=ending).update(next_try_at=None, ends_at=as_of + 60 * MINUTE)
    return tried, ending


def closing_half_way(line: Line, *, accounts: int, at_once: int) -> list[Account]:
    """A close in which as many as are taken at once have paid, and the line goes down."""
    entity = EntityFactory(slug="closing", invoice_prefix="CL")
    closing = [account_using("12.00", entity=entity) for _ in range(accounts)]
    start_close(entity=entity)
    work("INVOICE", "EMAIL")
    lanes.grant("sandbox", wanted=0)
    Lane.objects.filter(provider="sandbox").update(cap=at_once)
    work_once("CHARGE")
    line.is_down = True
    line.calls.clear()
    return closing


def test_six_hours_hold_nobody_dun_nobody_and_charge_everybody_once(world, line, sandbox):
    tried, ending = in_dunning(AS_OF)
    closing = closing_half_way(line, accounts=24, at_once=8)
    without_a_card = account_using("7.00", card=None, entity=closing[0].entity)
    mails = Message.objects.count()

    # The guard has looked a moment ago: these are on their way when the line goes down.
    work_once("CHARGE")
    assert line.calls["prepare"] == 8
    # 360 are one a minute.
    rounds = int(os.environ.get("OUTAGE_ROUNDS", "24"))
    for _ in range(rounds):
        world.minute_passes(360 // rounds)

    # Those, and now and then a probe of two calls, however often anybody looks.
    assert sum(line.calls.values()) <= 8 + 2 * min(rounds, 80)
    assert not Hold.objects.exists()
    assert Message.objects.count() == mails
    assert lanes.why_shut("sandbox") == "sandbox does not answer"
    waiting = Step.objects.filter(kind="CHARGE", state__in=["READY", "UNKNOWN"])
    assert waiting.count() == 16
    assert set(waiting.values_list("attempts", flat=True)) <= {0, 1}

    line.is_down = False
    world.minute_passes(6)
    assert lanes.why_shut("sandbox") == ""
    begun = line.calls["prepare"]
    world.second_passes()
    assert line.calls["prepare"] - begun <= 6
    for _ in range(30):
        world.second_passes()
    for _ in range(3):
        world.minute_passes()

    assert [due(account) for account in (*closing, tried)] == [0] * 25
    taken = Counter(s.account_ref for s in sandbox.book() if s.status == "SUCCEEDED")
    assert taken == {account.external_id: 1 for account in (*closing, tried)}
    assert {hold.account for hold in Hold.objects.all()} <= {ending, without_a_card}
    assert_books_hold(as_of=world.at)
