"""The sandbox behind a bad line: told to lose replies, to refuse, to wait, or to kill who calls it."""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from billing import gateways
from billing.gateways import Observation
from billing.gateways.standins.sandbox import SandboxGateway


class Killed(BaseException):
    """The process is gone here. No `except Exception` may soften it."""


class Provider:
    """Speaks the Gateway protocol; passes on to the sandbox unless told otherwise."""

    name = "sandbox"

    def __init__(self, sandbox: SandboxGateway) -> None:
        self.sandbox = sandbox
        self.capabilities = sandbox.capabilities
        self.calls: Counter[str] = Counter()
        self._before: dict[str, list[Callable[[], object]]] = defaultdict(list)
        self._after: dict[str, list[Callable[[], object]]] = defaultdict(list)
        self._says: dict[str, dict[str, Any]] = {}

    def before(self, call: str, do: Callable[[], object] | BaseException) -> None:
        """Do this once, before the next such call reaches the provider."""
        self._before[call].append(_act(do))

    def after(self, call: str, do: Callable[[], object] | BaseException) -> None:
        """Do this once, after the next such call was carried out, before its reply arrives."""
        self._after[call].append(_act(do))

    def says(self, call: str, **facts: Any) -> None:
        """From now on the reply to this call says so, whatever the book says."""
        self._says[call] = facts

    def heals(self) -> None:
        """From now on it is the plain sandbox."""
        self._before.clear()
        self._after.clear()
        self._says.clear()

    def chargeable_minor(self, amount_minor: int, currency: str) -> int:
        return self.sandbox.chargeable_minor(amount_minor, currency)

    def prepare(self, spec: gateways.AttemptSpec, *, key: str) -> Observation:
        return self._call("prepare", lambda: self.sandbox.prepare(spec, key=key))

    def submit(self, ref: str, *, key: str) -> Observation:
        return self._call("submit", lambda: self.sandbox.submit(ref, key=key))

    def read(self, ref: str) -> Observation:
        return self._call("read", lambda: self.sandbox.read(ref))

    def cancel(self, ref: str, *, key: str) -> Observation:
        return self._call("cancel", lambda: self.sandbox.cancel(ref, key=key))

    def find(self, spec: gateways.AttemptSpec, *, since: datetime) -> list[Observation]:
        self.calls["find"] += 1
        _next(self._before["find"])
        return self.sandbox.find(spec, since=since)

    def refund(self, spec: gateways.RefundSpec, *, key: str) -> gateways.RefundSeen:
        return self._call("refund", lambda: self.sandbox.refund(spec, key=key))

    def read_refund(self, ref: str) -> gateways.RefundSeen:
        return self._call("read_refund", lambda: self.sandbox.read_refund(ref))

    def find_refunds(self, payment_ref: str) -> list[gateways.RefundSeen]:
        self.calls["find_refunds"] += 1
        _next(self._before["find_refunds"])
        return self.sandbox.find_refunds(payment_ref)

    def book(self) -> Iterator[Observation]:
        return self.sandbox.book()

    def newest(self) -> list[Observation]:
        self.calls["newest"] += 1
        _next(self._before["newest"])
        return self.sandbox.newest()

    def objects(self, **window: datetime | None) -> Iterator[Observation | gateways.Foreign]:
        self.calls["objects"] += 1
        _next(self._before["objects"])
        return self.sandbox.objects(**window)

    def settlements(self, **which: Any) -> Iterator[gateways.SettlementLine]:
        return self.sandbox.settlements(**which)

    def refunds(self, **which: Any) -> Iterator[gateways.RefundSeen]:
        return self.sandbox.refunds(**which)

    def disputes(self, **which: Any) -> Iterator[gateways.DisputeSeen]:
        return self.sandbox.disputes(**which)

    def read_dispute(self, ref: str) -> gateways.DisputeSeen:
        return self.sandbox.read_dispute(ref)

    def test_methods(self, account_ref: str) -> Mapping[str, str]:
        return self.sandbox.test_methods(account_ref)

    def read_method(self, token: str) -> gateways.Method:
        return self.sandbox.read_method(token)

    def _call(self, name: str, pass_on: Callable[[], Any]) -> Any:
        self.calls[name] += 1
        _next(self._before[name])
        observation = pass_on()
        _next(self._after[name])
        return dataclasses.replace(observation, **self._says.get(name, {}))


def _act(do: Callable[[], object] | BaseException) -> Callable[[], object]:
    if not isinstance(do, BaseException):
        return do

    def fail() -> None:
        raise do

    return fail


def _next(waiting: list[Callable[[], object]]) -> None:
    if waiting:
        waiting.pop(0)()
