"""
Everything that can happen to one debt, in every order: a breadth-first search through the charge protocol.

Our side is billing/charge_protocol.py itself, asked at each step what may be done and what becomes of
it. The rest is played: a provider; a network that delays, repeats and loses whatever goes through it;
keys that the provider forgets; a bank that decides late; somebody who cancels what was left behind; a
customer who confirms, or pays by hand.

A crash needs no step of its own. Between two transactions a process holds nothing but a request that it
is about to send or an answer that it is about to write down; both lie in `wire` here, from where they
may come late, or never. So a process that dies, and one that sleeps for a day and then goes on, are both
in it, and so are two drivers at once. It may do more than payments/ does: ask or not before it sends
again, recheck at any time, give up without a reason. What holds for all of that holds for less.

With `Bounds.reversals`, a bank takes back what had succeeded, at any time: before we have heard of the
success, and after the attempt was given up.

Left out: amounts, and the other currency, which ends with a person. The bounds (`Bounds`) are the
small scope; see `explore` for what is asserted in every state.
"""

import argparse
import sys
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from billing import charge_protocol
from billing.charge_protocol import Move, State, Status

UNSUBMITTED, NEEDS_CUSTOMER, PROCESSING = "UNSUBMITTED", "NEEDS_CUSTOMER", "PROCESSING"
SUCCEEDED, DECLINED, CANCELED, REVERSED = "SUCCEEDED", "DECLINED", "CANCELED", "REVERSED"
# Submitting it (again) may move money.
SUBMITTABLE = {UNSUBMITTED, NEEDS_CUSTOMER, DECLINED}
# What a submit can come to, and what a bank or a customer can make of it later.
OUTCOMES = (SUCCEEDED, PROCESSING, NEEDS_CUSTOMER, DECLINED)
LATER = {PROCESSING: (SUCCEEDED, DECLINED), NEEDS_CUSTOMER: (SUCCEEDED, PROCESSING, DECLINED)}

# How a provider without two steps is charged: what the protocol does not do.
KEY_PER_RETRY, ONE_KEY, ONE_KEY_FOR_EVER = "key per retry", "one key", "one key for ever"


@dataclass(frozen=True)
class Bounds:
    """How small the scope is."""

    attempts: int = 2
    # Objects at the provider beyond one for each attempt: their reply was lost, another was made.
    left_behind: int = 1
    # Requests and answers on the wire at once; an answer that finds no room is lost.
    wire: int = 2
    # Successes that a bank takes back.
    reversals: int = 0


class Attempt(NamedTuple):
    state: str
    ref: int = -1
    declined: bool = False


class World(NamedTuple):
    attempts: tuple[Attempt, ...]
    # By the provider: whose it is, and where it stands.
    objects: tuple[tuple[int, str], ...]
    # Requests and answers under way.
    wire: frozenset[tuple]
    owed: bool
    booked: frozenset[int]
    # Of those: whose going back is booked as well. And whether somebody paid by hand, where that matters.
    gone: frozenset[int] = frozenset()
    by_hand: bool = False


BEGIN = World((Attempt("RESERVED"),), (), frozenset(), owed=True, booked=frozenset())


@dataclass
class Found:
    """What the search came to. `trace`: the shortest way to what is wrong."""

    states: int
    wrong: str = ""
    trace: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        said = f"{self.states} states: " + (self.wrong or "nothing wrong")
        return said + (": " + " > ".join(self.trace) if self.trace else "")


class Model:
    """The steps of everybody. `single_shot`: one call charges at once, and its key is all there is."""

    def __init__(self, bounds: Bounds, *, single_shot: str = "") -> None:
        self.bounds = bounds
        self.single_shot = single_shot
        # The tables, asked through their functions once for each question.
        self.heard = cache(self._heard)
        self.moved = cache(self._moved)
        self.in_flight = {state.value for state in charge_protocol.IN_FLIGHT}
        self.to_prepare = {state.value for state in charge_protocol.TO_PREPARE}
        self.rechecked = {state.value for state in charge_protocol.RECHECKED}
        self.to_submit = {state.value for state in charge_protocol.TO_SUBMIT}
        self.to_cancel = {state.value for state in charge_protocol.TO_CANCEL}
        self.asked = {state.value for state in charge_protocol.ASKED_FIRST}

    @staticmethod
    def _heard(state: str, status: str, is_own: bool, declined: bool) -> str | None:
        if not charge_protocol.concerns(Status(status), is_own_object=is_own):
            return None
        then = charge_protocol.next_state(State(state), Status(status), was_declined=declined)
        return then.value if then else None

    @staticmethod
    def _moved(state: str, move: Move) -> str | None:
        then = charge_protocol.MOVES[move].get(State(state))
        return then.value if then else None

    def steps(self, world: World) -> Iterator[tuple[str, bool, World]]:
        """
        What can happen next: its name, whether it happens by itself when nothing goes wrong, and to what.

        "By itself": what our processes do, a wire that delivers, a bank that decides. Nobody else may
        be needed for an end.
        """
        yield from self._ours(world)
        yield from self._on_the_wire(world)
        yield from self._others(world)

    # --- ours

    def _ours(self, world: World) -> Iterator[tuple[str, bool, World]]:
        for number, attempt in enumerate(world.attempts):
            state = attempt.state
            if state not in self.in_flight and state not in self.asked:
                continue
            if self.single_shot:
                yield from self._charge(world, number, attempt)
                continue
            if state in self.to_prepare:
                yield from self._prepare(world, number)
            if state in self.rechecked:
                yield from self._recheck(world, number, attempt)
            if state in self.to_cancel:
                yield from self._send(world, ("cancel", attempt.ref), "send cancel")
            if state in self.asked:
                yield from self._look(world, attempt.ref, "ask")
            if (unanswered := self.moved(state, Move.UNANSWERED)) not in {None, state}:
                yield "a day without an answer", False, self._to(world, number, unanswered)
            if then := self.moved(state, Move.CARD_GONE):
                gone = attempt._replace(state=then, declined=True)
                yield "the card is gone", False, _with(world, number, gone)
        in_flight = any(attempt.state in self.in_flight for attempt in world.attempts)
        if world.owed and not in_flight and len(world.attempts) < self.bounds.attempts:
            new = (*world.attempts, Attempt("RESERVED"))
            yield "a new attempt", False, world._replace(attempts=new)

    def _prepare(self, world: World, number: int) -> Iterator[tuple[str, bool, World]]:
        made = [
            (ref, status)
            for ref, (whose, status) in enumerate(world.objects)
            if whose == number and status != CANCELED
        ]
        if made:
            # One that has moved money first.
            ref = min(made, key=lambda each: each[1] == UNSUBMITTED)[0]
            yield from self._send(world, ("made", number, ref), "find")
        else:
            yield from self._send(world, ("prepare", number), "send prepare")

    def _recheck(
        self, world: World, number: int, attempt: Attempt
    ) -> Iterator[tuple[str, bool, World]]:
        if world.owed and (then := self.moved(attempt.state, Move.STILL_DUE)):
            after = self._to(world, number, then)
            if then in self.to_submit:
                yield from self._send(after, ("submit", attempt.ref), "recheck, send submit")
            else:
                yield "recheck", True, after
        # Less due, no card, no confirmation: whatever the reason.
        if then := self.moved(attempt.state, Move.NO_LONGER_DUE):
            yield "recheck: no longer due", True, self._to(world, number, then)

    def _charge(
        self, world: World, number: int, attempt: Attempt
    ) -> Iterator[tuple[str, bool, World]]:
        if attempt.state == "RESERVED" and world.owed:
            yield from self._send(world, ("charge", number), "send charge")

    # --- the wire, and the provider at its other end

    def _send(self, world: World, message: tuple, name: str) -> Iterator[tuple[str, bool, World]]:
        if message in world.wire or len(world.wire) < self.bounds.wire:
            yield name, True, world._replace(wire=world.wire | {message})

    def _look(self, world: World, ref: int, name: str) -> Iterator[tuple[str, bool, World]]:
        yield from self._send(world, ("seen", ref, world.objects[ref][1]), name)

    def _on_the_wire(self, world: World) -> Iterator[tuple[str, bool, World]]:
        for message in world.wire:
            without = world._replace(wire=world.wire - {message})
            yield f"lost: {message}", True, without
            for name, after in self._delivered(without, message):
                yield name, True, after
                if message[0] not in {"seen", "made"} and len(after.wire) < self.bounds.wire:
                    # And it comes once more.
                    yield f"{name}, again later", False, after._replace(wire=after.wire | {message})

    def _delivered(self, world: World, message: tuple) -> Iterator[tuple[str, World]]:
        match message:
            case ("seen", ref, status):
                yield f"hear of {ref}: {status}", self._hear(world, ref, status)
            case ("made", number, ref):
                attempt = world.attempts[number]
                if then := self.moved(attempt.state, Move.STORED):
                    stored = attempt._replace(state=then, ref=ref)
                    yield f"store {ref}", _with(world, number, stored)
            case ("prepare", number):
                yield from self._made(world, number, UNSUBMITTED)
            case ("charge", number):
                yield from self._made(world, number, SUCCEEDED)
            case ("submit", ref):
                if world.objects[ref][1] in SUBMITTABLE:
                    for status in OUTCOMES:
                        after = _with_object(world, ref, status)
                        yield f"submitted {ref}: {status}", self._reply(after, ref)
                else:
                    yield f"submitted {ref} in vain", self._reply(world, ref)
            case ("cancel", ref):
                if world.objects[ref][1] in SUBMITTABLE:
                    world = _with_object(world, ref, CANCELED)
                yield f"cancel {ref}: {world.objects[ref][1]}", self._reply(world, ref)

    def _made(self, world: World, number: int, status: str) -> Iterator[tuple[str, World]]:
        made = [ref for ref, (whose, _) in enumerate(world.objects) if whose == number]
        if self.single_shot != KEY_PER_RETRY:
            for ref in made:
                yield f"the key is known: {ref}", self._made_reply(world, number, ref)
        # Another key, or one that the provider has forgotten.
        if not made or (self.single_shot != ONE_KEY_FOR_EVER and self._may_leave_one_behind(world)):
            more = world._replace(objects=(*world.objects, (number, status)))
            new = len(world.objects)
            yield f"made {new}", self._made_reply(more, number, new)

    def _made_reply(self, world: World, number: int, ref: int) -> World:
        return (
            self._reply(world, ref)
            if self.single_shot
            else self._answer(world, ("made", number, ref))
        )

    def _may_leave_one_behind(self, world: World) -> bool:
        has_one = {whose for whose, _ in world.objects}
        return len(world.objects) - len(has_one) < self.bounds.left_behind

    def _reply(self, world: World, ref: int) -> World:
        return self._answer(world, ("seen", ref, world.objects[ref][1]))

    def _answer(self, world: World, answer: tuple) -> World:
        has_room = len(world.wire) < self.bounds.wire
        return world._replace(wire=world.wire | {answer}) if has_room else world

    def _hear(self, world: World, ref: int, status: str) -> World:
        number = world.objects[ref][0]
        attempt = world.attempts[number]
        then = self.heard(attempt.state, status, attempt.ref == ref, attempt.declined)
        if then is None:
            return world
        if status in {SUCCEEDED, REVERSED}:
            known = world.gone if status == REVERSED else world.booked
            if ref in known:
                return world
            world = self._booked(world, ref, status)
            if attempt.state != SUCCEEDED:
                attempt = attempt._replace(ref=ref)
        declined = attempt.declined or status == DECLINED
        return _with(world, number, attempt._replace(state=then, declined=declined))

    def _booked(self, world: World, ref: int, status: str) -> World:
        """A payment, and that it went back; what it had settled is owed again, unless others settle it."""
        booked = world.booked | {ref}
        gone = world.gone | {ref} if status == REVERSED else world.gone
        return world._replace(booked=booked, gone=gone, owed=not (booked - gone or world.by_hand))

    def _to(self, world: World, number: int, state: str) -> World:
        return _with(world, number, world.attempts[number]._replace(state=state))

    # --- everybody else

    def _others(self, world: World) -> Iterator[tuple[str, bool, World]]:
        if world.owed:
            by_hand = bool(self.bounds.reversals)
            yield "paid by hand", False, world._replace(owed=False, by_hand=by_hand)
        for ref, (number, status) in enumerate(world.objects):
            if status == UNSUBMITTED and world.attempts[number].ref not in {-1, ref}:
                yield f"orphan {ref} cancelled", False, _with_object(world, ref, CANCELED)
            if status == REVERSED and ref not in world.gone:
                yield from self._look(world, ref, "reconcile")
            for later in self._later(world, status):
                after = _with_object(world, ref, later)
                yield f"later {ref}: {later}", status == PROCESSING, after
            for name, _, after in self._look(world, ref, "webhook"):
                yield name, False, after

    def _later(self, world: World, status: str) -> tuple[str, ...]:
        taken_back = sum(status == REVERSED for _, status in world.objects)
        if status == SUCCEEDED and taken_back < self.bounds.reversals:
            return (REVERSED,)
        return LATER.get(status, ())

    # --- what must be true

    def wrong(self, world: World) -> str:
        """What must never be."""
        if twice := charged_twice(world):
            return twice
        if sum(attempt.state in self.in_flight for attempt in world.attempts) > 1:
            return "two in flight"
        for ref, (number, status) in enumerate(world.objects):
            if world.attempts[number].state in self.in_flight:
                continue
            if status in {PROCESSING, NEEDS_CUSTOMER} or (
                status in SUBMITTABLE and ("submit", ref) in world.wire
            ):
                return "freed while money can move"
            if status == SUCCEEDED and ref not in world.booked:
                return "freed with a success that nobody will ask about"
        return ""

    def is_done(self, world: World) -> bool:
        """Nothing in flight, every success booked, and that it went back where it did."""
        return all(attempt.state not in self.in_flight for attempt in world.attempts) and all(
            ref in (world.gone if status == REVERSED else world.booked)
            for ref, (_, status) in enumerate(world.objects)
            if status in {SUCCEEDED, REVERSED}
        )


def charged_twice(world: World) -> str:
    """The one thing that it is all about: two successes at the provider for one debt."""
    taken = [status for _, status in world.objects if status == SUCCEEDED]
    return "charged twice" if len(taken) > 1 else ""


def _with(world: World, number: int, attempt: Attempt) -> World:
    before, after = world.attempts[:number], world.attempts[number + 1 :]
    return world._replace(attempts=(*before, attempt, *after))


def _with_object(world: World, ref: int, status: str) -> World:
    whose = world.objects[ref][0]
    before, after = world.objects[:ref], world.objects[ref + 1 :]
    return world._replace(objects=(*before, (whose, status), *after))


def explore(model: Model, *, wrong: Callable[[World], str] | None = None) -> Found:
    """
    Go through every state that can be reached, and stop at the first that is wrong.

    In every state: at most one success at the provider, one attempt in flight, and a freed account only
    where nothing can move money any more and every success is booked. And from every state there is a
    way to an end on which our processes go alone: no webhook, no person, no customer. With `wrong`, only
    that is looked for in a state.
    """
    wrong = wrong or model.wrong
    numbers: dict[World, int] = {BEGIN: 0}
    worlds = [BEGIN]
    came_from: list[tuple[int, str]] = [(-1, "")]
    edges_from, edges_to = array("l"), array("l")
    waiting = deque([0])
    while waiting:
        number = waiting.popleft()
        for name, by_itself, after in model.steps(worlds[number]):
            then = numbers.get(after)
            if then is None:
                then = numbers[after] = len(worlds)
                worlds.append(after)
                came_from.append((number, name))
                waiting.append(then)
                if seen := wrong(after):
                    return Found(len(worlds), seen, _trace(came_from, then))
            if by_itself:
                edges_from.append(number)
                edges_to.append(then)
    stuck = _without_a_way_out(model, worlds, edges_from, edges_to)
    if stuck is not None:
        return Found(len(worlds), "no way out", _trace(came_from, stuck))
    return Found(len(worlds))


def _without_a_way_out(model: Model, worlds: list[World], edges_from, edges_to) -> int | None:
    """The first state from which no end can be reached, if there is one."""
    before: list[list[int]] = [[] for _ in worlds]
    for start, end in zip(edges_from, edges_to, strict=True):
        before[end].append(start)
    good = bytearray(len(worlds))
    waiting = deque(number for number, world in enumerate(worlds) if model.is_done(world))
    for number in waiting:
        good[number] = True
    while waiting:
        for number in before[waiting.popleft()]:
            if not good[number]:
                good[number] = True
                waiting.append(number)
    return good.find(0) if 0 in good else None


def _trace(came_from: list[tuple[int, str]], number: int) -> list[str]:
    names = []
    while number > 0:
        number, name = came_from[number]
        names.append(name)
    return names[::-1]


def main() -> int:
    """`python -m tests.properties.charge_model`: its last line is `states: N, violations: 0`."""
    parser = argparse.ArgumentParser(prog="model-check", description=__doc__)
    for name, value in vars(Bounds()).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    bounds = Bounds(**vars(parser.parse_args()))
    began = time.monotonic()
    found = explore(Model(bounds))
    print(f"{bounds}, {time.monotonic() - began:.0f} s: {found}")
    print(f"states: {found.states}, violations: {int(bool(found.wrong))}")
    return int(bool(found.wrong))


if __name__ == "__main__":
    sys.exit(main())
