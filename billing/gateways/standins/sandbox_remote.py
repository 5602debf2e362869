"""The sandbox provider in another process (sandbox_server.py), spoken to over HTTP as one speaks to a real one."""

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from billing.charge_protocol import Status
from billing.gateways import patience
from billing.gateways.base import (
    AttemptSpec,
    Foreign,
    Misconfigured,
    NotSent,
    Observation,
    OutcomeUnknown,
    RateLimited,
    RefundRefused,
    RefundSeen,
    RefundSpec,
    RefundStatus,
)
from billing.gateways.standins.sandbox import SandboxGateway

# What a call may be answered with besides a result; we raise the same.
ERRORS = {error.__name__: error for error in (Misconfigured, OutcomeUnknown, RefundRefused)}

# A provider that has not answered by then may have done it all the same.
TIMEOUT_SECONDS = 20

# Connections nobody is using, by process and address: a forked worker must not share its parent's.
_idle: dict[tuple[int, str], list[HTTPConnection]] = defaultdict(list)


class RemoteSandbox(SandboxGateway):
    """Speaks the Gateway protocol; whatever touches the book is asked of its process."""

    def __init__(self, url: str) -> None:
        super().__init__(Path())
        self._address = urlsplit(url).netloc

    def prepare(self, spec: AttemptSpec, *, key: str) -> Observation:
        """As the sandbox does."""
        return _observation(self._ask("prepare", spec=_spec(spec), key=key))

    def submit(self, ref: str, *, key: str) -> Observation:
        """As the sandbox does."""
        return _observation(self._ask("submit", ref=ref, key=key))

    def read(self, ref: str) -> Observation:
        """As the sandbox does."""
        return _observation(self._ask("read", ref=ref))

    def find(self, spec: AttemptSpec, *, since: datetime) -> list[Observation]:
        """As the sandbox does."""
        found = self._ask("find", spec=_spec(spec), since=since.isoformat())
        return [_observation(each) for each in found]

    def cancel(self, ref: str, *, key: str) -> Observation:
        """As the sandbox does."""
        return _observation(self._ask("cancel", ref=ref, key=key))

    def refund(self, spec: RefundSpec, *, key: str) -> RefundSeen:
        """As the sandbox does."""
        return _refund_seen(self._ask("refund", spec=vars(spec), key=key))

    def read_refund(self, ref: str) -> RefundSeen:
        """As the sandbox does."""
        return _refund_seen(self._ask("read_refund", ref=ref))

    def find_refunds(self, payment_ref: str) -> list[RefundSeen]:
        """As the sandbox does."""
        return [_refund_seen(each) for each in self._ask("find_refunds", payment_ref=payment_ref)]

    def refunds(self, *, since: datetime | None = None) -> Iterator[RefundSeen]:
        """As the sandbox does."""
        return (_refund_seen(each) for each in self._ask("refunds"))

    def book(self) -> Iterator[Observation]:
        """As the sandbox does."""
        return (_observation(each) for each in self._ask("book"))

    def objects(
        self, *, since: datetime | None = None, until: datetime | None = None
    ) -> Iterator[Observation | Foreign]:
        """As the sandbox does."""
        bounds = {"since": since, "until": until}
        said = {name: at.isoformat() for name, at in bounds.items() if at is not None}
        return (_observation(each) for each in self._ask("objects", **said))

    def newest(self) -> list[Observation]:
        """As the sandbox does."""
        return [_observation(each) for each in self._ask("newest")]

    def _ask(self, name: str, **said: Any) -> Any:
        """
        One call, on a connection that is kept for the next.

        :raises NotSent: if the process is not there.
        :raises OutcomeUnknown: if it went away in the middle, or failed.
        :raises RateLimited: if it has had enough.
        """
        try:
            with patience.turn():
                response, answer = self._exchange(name, said)
        except patience.NobodyWaits as nobody:
            raise NotSent(str(nobody)) from nobody
        if response.status == 429:
            raise RateLimited(answer["retry_after_seconds"])
        if response.status == 500:
            raise OutcomeUnknown(f"the sandbox failed: {answer['because']}")
        if "error" in answer:
            raise ERRORS[answer["error"]](answer["because"])
        return answer["result"]

    def _exchange(self, name: str, said: dict[str, Any]) -> tuple[HTTPResponse, Any]:
        idle = _idle[os.getpid(), self._address]
        connection = idle.pop() if idle else self._connect()
        if connection.sock is not None:
            connection.sock.settimeout(patience.left(TIMEOUT_SECONDS))
        try:
            connection.request("POST", f"/{name}", json.dumps(said).encode())
            response = connection.getresponse()
            answer = json.loads(response.read())
        except (OSError, HTTPException, ValueError) as error:
            connection.close()
            raise OutcomeUnknown(f"the sandbox did not answer {name}: {error!r}") from error
        idle.append(connection)
        return response, answer

    def _connect(self) -> HTTPConnection:
        connection = HTTPConnection(self._address, timeout=patience.left(TIMEOUT_SECONDS))
        try:
            connection.connect()
        except OSError as error:
            raise NotSent(f"no sandbox listens at {self._address}: {error}") from error
        return connection


def _spec(spec: AttemptSpec) -> dict[str, Any]:
    """What the sandbox looks at; it waits for no charge date."""
    return {name: value for name, value in vars(spec).items() if name != "charge_date"}


def _observation(said: dict[str, Any]) -> Observation:
    made_at = datetime.fromisoformat(said["made_at"]).astimezone(UTC)
    return Observation(**{**said, "status": Status(said["status"]), "made_at": made_at})


def _refund_seen(said: dict[str, Any]) -> RefundSeen:
    return RefundSeen(**{**said, "status": RefundStatus(said["status"])})
