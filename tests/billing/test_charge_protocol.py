"""The tables of the charge protocol: what the database, the drawing and the code know of them."""

import re

import pytest
from django.conf import settings
from django.db import IntegrityError, transaction

from billing import charge_protocol
from billing.charge_protocol import (
    ASKED_FIRST,
    ENDS,
    IN_FLIGHT,
    MOVES,
    TO_CANCEL,
    TO_PREPARE,
    TO_SUBMIT,
    TOOK_MONEY,
    Move,
    State,
)
from billing.gateways import Status
from billing.models import PaymentAttempt
from tests.factories import CardFactory

DRAWING = re.compile(r"^## PaymentAttempt$.*?```mermaid(.*?)```", re.MULTILINE | re.DOTALL)
ARROW = re.compile(r"(\w+) --> (\w+)")


def drawn() -> set[tuple[str, str]]:
    page = (settings.BASE_DIR / "docs/states.md").read_text()
    drawing = DRAWING.search(page)
    assert drawing, "docs/states.md draws the attempt's states"
    return set(ARROW.findall(drawing[1]))


def refusal(attempt: PaymentAttempt, then: State) -> str:
    """What the database says to this change; empty where it lets it be. It is taken back at once."""
    try:
        with transaction.atomic():
            PaymentAttempt.objects.filter(pk=attempt.pk).update(state=then)
            transaction.set_rollback(True)
    except IntegrityError as error:
        return str(error)
    return ""


class TestTheDatabase:
    def test_stores_the_protocols_states(self):
        stored = PaymentAttempt._meta.get_field("state").choices

        assert dict(stored) == {state.value: state.label for state in State}

    def test_lets_a_second_attempt_start_where_the_protocol_does(self):
        assert set(PaymentAttempt.IN_FLIGHT) == IN_FLIGHT
        (one_in_flight,) = (
            constraint
            for constraint in PaymentAttempt._meta.constraints
            if constraint.name == "one_attempt_in_flight_per_account_and_currency"
        )
        assert dict(one_in_flight.condition.children) == {
            "state__in": [state.value for state in PaymentAttempt.IN_FLIGHT]
        }

    @pytest.mark.django_db
    def test_refuses_what_the_protocol_does_not_know(self):
        refused = set()
        for before in State:
            card = CardFactory()
            attempt = PaymentAttempt.objects.create(
                account=card.account, payment_method=card, amount_minor=1, state=before
            )
            for then in State:
                if said := refusal(attempt, then):
                    assert f"does not go from {before} to {then}" in said
                    refused.add((before, then))

        every = {(before, then) for before in State for then in State if before is not then}
        assert refused == every - charge_protocol.known_changes()
        assert len(refused) >= 30


class TestTheDrawing:
    def test_shows_no_change_that_the_protocol_does_not_know(self):
        assert drawn() <= charge_protocol.known_changes()

    def test_shows_everything_that_we_do_but_for_what_is_said_below_it(self):
        said_below = {Move.UNANSWERED, Move.WRONG_CURRENCY}
        ours = {pair for move in set(Move) - said_below for pair in MOVES[move].items()}

        assert {(before, then) for before, then in ours if before != then} <= drawn()
        assert (State.RESERVED, State.RELEASED) in drawn()

    def test_shows_every_state(self):
        assert {state for arrow in drawn() for state in arrow} == set(State)


class TestTheTables:
    def test_every_attempt_in_flight_has_a_phase_that_takes_it_on(self):
        # A prepared one goes to the recheck.
        assert ASKED_FIRST | TO_PREPARE | {State.PREPARED} | TO_CANCEL == IN_FLIGHT

    def test_nothing_is_sent_that_is_not_rechecked_before(self):
        assert set(MOVES[Move.STILL_DUE].values()) >= TO_SUBMIT

    @pytest.mark.parametrize("state", State)
    @pytest.mark.parametrize("status", sorted(TOOK_MONEY))
    def test_money_that_moved_is_booked_from_any_state(self, state, status):
        assert charge_protocol.next_state(state, status) == State.SUCCEEDED

    @pytest.mark.parametrize("state", sorted(IN_FLIGHT - {State.RESERVED}))
    def test_only_the_provider_ends_what_it_has_an_object_of(self, state):
        # A person's word ends one only where the provider gives none, or none that can be booked.
        moves = set(Move) - {Move.RESOLVED}
        ended_by_us = {MOVES[move].get(state) for move in moves} & ENDS
        ended_by_it = {
            status for status in Status if charge_protocol.next_state(state, status) in ENDS
        }

        assert not ended_by_us
        assert ended_by_it == {*TOOK_MONEY, Status.CANCELED}

    @pytest.mark.parametrize("end", sorted(ENDS))
    def test_an_end_is_left_by_nothing_but_money(self, end):
        told = {status for status in Status if charge_protocol.next_state(end, status)}

        assert told == TOOK_MONEY

    def test_a_move_from_elsewhere_is_refused(self):
        with pytest.raises(KeyError):
            charge_protocol.moved(State.SUCCEEDED, Move.NO_LONGER_DUE)
