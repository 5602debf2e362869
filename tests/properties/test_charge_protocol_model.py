"""
The charge protocol's own tables, in every order of events there is: never twice, nothing lost, no dead end.

Each broken variant is a table that somebody could think right. That the search finds what is wrong with
each of them is what makes its "nothing" worth something.
"""

from collections.abc import Callable

import pytest

from billing import charge_protocol
from billing.charge_protocol import AT_THE_PROVIDER, HEARD, IN_FLIGHT, MOVES, RECHECKED, Move, State
from billing.gateways import Status
from tests.properties.charge_model import (
    KEY_PER_RETRY,
    ONE_KEY,
    ONE_KEY_FOR_EVER,
    Bounds,
    Model,
    charged_twice,
    explore,
)

# Two attempts, one object left behind, two messages on the wire; 9 seconds. Fewer states than this
# would mean that something has stopped to happen in the model. More: python -m tests.properties.charge_model.
BOUNDS = Bounds(attempts=2, left_behind=1, wire=2)
STATES_AT_LEAST = 200_000


def test_the_protocol_charges_once_loses_nothing_and_always_ends():
    found = explore(Model(BOUNDS))

    assert not found.wrong, str(found)
    assert found.states >= STATES_AT_LEAST


def test_what_banks_take_back_is_booked_whenever_we_hear_of_it():
    found = explore(Model(Bounds(attempts=2, left_behind=0, wire=2, reversals=1)))

    assert not found.wrong, str(found)
    assert found.states >= 40_000


Break = Callable[[pytest.MonkeyPatch], None]


def _tables(**changed: object) -> Break:
    def break_it(patch: pytest.MonkeyPatch) -> None:
        for name, table in changed.items():
            patch.setattr(charge_protocol, name, table)

    return break_it


def _move(move: Move, table: dict[State, State]) -> Break:
    return _tables(MOVES={**MOVES, move: {**MOVES[move], **table}})


def _heard(status: Status, table: dict[State, State]) -> Break:
    return _tables(HEARD={**HEARD, status: {**HEARD[status], **table}})


CHARGE_TWICE = {
    "released without a cancel": _move(
        Move.NO_LONGER_DUE, dict.fromkeys(RECHECKED, State.RELEASED)
    ),
    "a timeout taken as failed": _move(
        Move.UNANSWERED, dict.fromkeys(AT_THE_PROVIDER, State.FAILED)
    ),
    "a decline that ends it at once": _heard(
        Status.DECLINED, dict.fromkeys(AT_THE_PROVIDER, State.FAILED)
    ),
    "a customer who has to confirm, taken as failed": _heard(
        Status.NEEDS_CUSTOMER, dict.fromkeys(AT_THE_PROVIDER, State.FAILED)
    ),
    "a bank that takes its time, taken as failed": _heard(
        Status.PROCESSING, dict.fromkeys(AT_THE_PROVIDER, State.FAILED)
    ),
    "not submitted yet, taken as never": _heard(
        Status.UNSUBMITTED, {State.SUBMITTED: State.RELEASED}
    ),
    "a review that lets the next one start": _tables(IN_FLIGHT=IN_FLIGHT - {State.REVIEW}),
    "a cancel that is not waited for": _tables(IN_FLIGHT=IN_FLIGHT - {State.CANCELING}),
    "the end of an object left behind, taken for the attempt's": _tables(
        concerns=lambda _status, *, is_own_object: True
    ),
}


@pytest.mark.parametrize("name", CHARGE_TWICE)
def test_a_broken_table_is_found_charging_twice(monkeypatch, name):
    CHARGE_TWICE[name](monkeypatch)

    found = explore(Model(BOUNDS), wrong=charged_twice)

    assert found.wrong == "charged twice", str(found)
    assert found.trace


LOSE_OR_HANG = {
    "a success after a cancel, not looked at": (
        _tables(
            HEARD={
                **HEARD,
                Status.SUCCEEDED: dict.fromkeys(IN_FLIGHT - {State.CANCELING}, State.SUCCEEDED),
            }
        ),
        "no way out",
    ),
    "a review that nobody asks about": (
        _tables(ASKED_FIRST=charge_protocol.ASKED_FIRST - {State.REVIEW}),
        "no way out",
    ),
    "an attempt under way that nobody asks about": (
        _tables(ASKED_FIRST=charge_protocol.ASKED_FIRST - {State.PROCESSING}),
        "no way out",
    ),
    "an attempt freed with a submit on its way": (
        _heard(Status.UNSUBMITTED, {State.SUBMITTED: State.RELEASED}),
        "freed while money can move",
    ),
}


@pytest.mark.parametrize("name", LOSE_OR_HANG)
def test_a_broken_table_is_found_losing_money_or_hanging(monkeypatch, name):
    break_it, expected = LOSE_OR_HANG[name]
    break_it(monkeypatch)

    found = explore(Model(Bounds(attempts=1)))

    assert found.wrong == expected, str(found)


UNHEARD = {
    "what went back before we heard of it, not looked at": _tables(
        HEARD={**HEARD, Status.REVERSED: {State.SUCCEEDED: State.SUCCEEDED}}
    ),
    "what went back after it was booked, not looked at": _tables(
        HEARD={**HEARD, Status.REVERSED: dict.fromkeys(IN_FLIGHT, State.SUCCEEDED)}
    ),
}


@pytest.mark.parametrize("name", UNHEARD)
def test_a_broken_table_is_found_losing_what_went_back(monkeypatch, name):
    UNHEARD[name](monkeypatch)

    found = explore(Model(Bounds(attempts=1, left_behind=1, wire=1, reversals=1)))

    assert found.wrong == "no way out", str(found)


class TestOneCallThatCharges:
    """What the protocol does not do, and why: without an object, a key is all there is."""

    @pytest.mark.parametrize("how", [KEY_PER_RETRY, ONE_KEY])
    def test_charges_twice(self, how):
        found = explore(Model(Bounds(attempts=1), single_shot=how), wrong=charged_twice)

        assert found.wrong == "charged twice", str(found)

    def test_not_with_one_key_that_the_provider_never_forgets(self):
        one_key = Model(Bounds(attempts=1), single_shot=ONE_KEY_FOR_EVER)

        assert explore(one_key, wrong=charged_twice).wrong != "charged twice"
