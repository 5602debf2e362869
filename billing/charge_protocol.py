"""
The charge protocol as data: where an attempt may stand, what moves it on, and what a decline means.

Pure: models, gateways and acts take their states and classes from here, and no list is written twice.
`payments` follows these tables, docs/states.md draws them, and a model check goes through every state
they can come to with a provider, a network and a customer who do what they like
(tests/properties/test_charge_protocol_model.py).
"""

from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Self


class Labelled(StrEnum):
    """A word as it is stored, and what people read where that is another."""

    label: str

    def __new__(cls, word: str, label: str = "") -> Self:
        member = str.__new__(cls, word)
        member._value_ = word
        member.label = label or word.capitalize()
        return member


class State(Labelled):
    """Where an attempt stands."""

    RESERVED = "RESERVED"  # ours alone; no money can move
    PREPARED = "PREPARED"  # the provider holds an unsubmitted object
    SUBMITTED = "SUBMITTED"  # the provider may be moving money
    PROCESSING = "PROCESSING"  # the provider says: on its way
    REQUIRES_ACTION = "REQUIRES_ACTION", "Needs the customer"
    CANCELING = "CANCELING", "Being cancelled"  # not free before the provider says so
    REVIEW = "REVIEW", "In review"  # a person decides; blocks new attempts
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"  # declined, and cancelled at the provider
    RELEASED = "RELEASED"  # given up before money moved


class Status(StrEnum):
    """Where a charge stands at the provider, as every gateway says it."""

    UNSUBMITTED = "UNSUBMITTED"
    NEEDS_CUSTOMER = "NEEDS_CUSTOMER"
    PROCESSING = "PROCESSING"
    SUCCEEDED = "SUCCEEDED"
    DECLINED = "DECLINED"  # refused, and could be submitted again: cancel it
    CANCELED = "CANCELED"
    REVERSED = "REVERSED"  # it had succeeded; then the payer's bank took all of it back


ENDS = frozenset({State.SUCCEEDED, State.FAILED, State.RELEASED})
# No second attempt may start.
IN_FLIGHT = frozenset(State) - ENDS
# The provider has an object, so that there is something to ask about.
AT_THE_PROVIDER = IN_FLIGHT - {State.RESERVED}

# --- which phase takes an attempt on from where

# Only the provider knows how far it got: ask before anything else.
ASKED_FIRST = frozenset({State.SUBMITTED, State.PROCESSING, State.REQUIRES_ACTION, State.REVIEW})
TO_PREPARE = frozenset({State.RESERVED})
# A changed world still stops it.
RECHECKED = frozenset({State.PREPARED, State.SUBMITTED, State.REQUIRES_ACTION})
# And never without the recheck just before, however often it is sent.
TO_SUBMIT = frozenset({State.SUBMITTED})
TO_CANCEL = frozenset({State.CANCELING})

# A customer whom the bank asks to confirm has a long weekend for it; then the account is free again.
CUSTOMER_MAY_TAKE = timedelta(hours=72)


# --- what we do


class Move(StrEnum):
    """What becomes of an attempt by our own doing."""

    STORED = "the provider's object is known to us"
    STILL_DUE = "rechecked: it may be sent"
    NO_LONGER_DUE = "rechecked: the world has changed"
    UNANSWERED = "no usable answer for too long, or the set-up is wrong"
    CARD_GONE = "the provider has the card no more: nothing could be prepared, or confirmed"
    WRONG_CURRENCY = "the provider took another currency"
    RESOLVED = "a person has looked at the provider's: nothing was taken, or it was given back"


MOVES: Mapping[Move, Mapping[State, State]] = {
    Move.STORED: {State.RESERVED: State.PREPARED},
    Move.STILL_DUE: {
        State.PREPARED: State.SUBMITTED,
        State.SUBMITTED: State.SUBMITTED,
        State.REQUIRES_ACTION: State.REQUIRES_ACTION,
    },
    # Not free before the provider says that it is cancelled.
    Move.NO_LONGER_DUE: dict.fromkeys(RECHECKED, State.CANCELING),
    # Nothing was prepared: no money can have moved. Else a person looks, and nothing new starts.
    Move.UNANSWERED: dict.fromkeys(AT_THE_PROVIDER, State.REVIEW)
    | {State.RESERVED: State.RELEASED},
    # Nothing was prepared: it is over. Else there is an object, which is cancelled first.
    Move.CARD_GONE: {State.RESERVED: State.FAILED, State.REQUIRES_ACTION: State.CANCELING},
    Move.RESOLVED: {State.REVIEW: State.RELEASED},
    Move.WRONG_CURRENCY: dict.fromkeys(State, State.REVIEW),
}


def moved(state: State | str, move: Move) -> State:
    """
    Where a move takes an attempt.

    :raises KeyError: if it may not be made from there.
    """
    return MOVES[move][State(state)]


# --- what the provider says

# A status that is not listed for a state is nothing new: an old answer, or none yet.
HEARD: Mapping[Status, Mapping[State, State]] = {
    # Nobody could ask for a day, nothing moved, and by now nobody waits for it.
    Status.UNSUBMITTED: {State.REVIEW: State.CANCELING},
    Status.NEEDS_CUSTOMER: dict.fromkeys(AT_THE_PROVIDER, State.REQUIRES_ACTION),
    Status.PROCESSING: dict.fromkeys(AT_THE_PROVIDER, State.PROCESSING),
    # It could still be submitted again, so it is not over before it is cancelled.
    Status.DECLINED: dict.fromkeys(AT_THE_PROVIDER, State.CANCELING),
    # After a decline: FAILED.
    Status.CANCELED: dict.fromkeys(AT_THE_PROVIDER, State.RELEASED),
    # Money that moved is booked from any state.
    Status.SUCCEEDED: dict.fromkeys(State, State.SUCCEEDED),
    # It had moved; that it has gone back since is booked after it.
    Status.REVERSED: dict.fromkeys(State, State.SUCCEEDED),
}


TOOK_MONEY = frozenset({Status.SUCCEEDED, Status.REVERSED})


def concerns(status: Status, *, is_own_object: bool) -> bool:
    """Whether it matters: an object left behind by an earlier try does only if it took money."""
    return is_own_object or status in TOOK_MONEY


def next_state(state: State | str, status: Status, *, was_declined: bool = False) -> State | None:
    """Where an attempt goes when the provider says this of it; None if that is nothing new."""
    then = HEARD[status].get(State(state))
    return State.FAILED if then is State.RELEASED and was_declined else then


def answers(state: State | str, then: State | None) -> bool:
    """
    Whether what the provider says answers what was last asked of it, so that nothing is unknown any more.

    That it can be read answers a question. It answers no submit and no cancel: what that was to change still
    stands as before. Nor does it answer for a person, who has not looked yet.
    """
    state = State(state)
    if state is State.REVIEW:
        return then not in {None, State.REVIEW, State.CANCELING}
    return state not in TO_SUBMIT | TO_CANCEL or then not in {None, state}


def known_changes() -> frozenset[tuple[State, State]]:
    """Every change of state there is, from and to."""
    ours = {pair for move in MOVES.values() for pair in move.items()}
    theirs = {
        (state, then)
        for state in State
        for status in Status
        for was_declined in (False, True)
        if (then := next_state(state, status, was_declined=was_declined))
    }
    return frozenset((before, then) for before, then in ours | theirs if before is not then)


# --- what a decline means


class DeclineClass(Labelled):
    """What to do after a decline. Which code is which: billing/gateways/declines.py."""

    SOFT = "SOFT", "Temporary decline"  # try again, a few times
    NEEDS_CUSTOMER = "NEEDS_CUSTOMER", "Needs the customer"  # the card alone will not do
    STOP = "STOP", "Never again"  # never charge this card again
    OURS = "OURS", "Our set-up or request"  # tell an operator, not the customer


# Another day may help; of our own faults an operator may mend.
TRIED_AGAIN = frozenset({DeclineClass.SOFT, DeclineClass.OURS})
# The card is blocked at once, on whatever account.
BLOCKS_THE_CARD = frozenset({DeclineClass.STOP})
# Its customer can do nothing about it, is not written to, and is not held for it.
FAULT_OF_OURS = frozenset({DeclineClass.OURS})
