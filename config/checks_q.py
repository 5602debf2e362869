"""The system check that keeps one doorbell from being answered twice."""

from collections.abc import Sequence
from math import ceil
from typing import Any

from django.apps import AppConfig
from django.core.checks import CheckMessage, Error
from django_q.conf import Conf


def lease_outlives_the_queue(
    app_configs: Sequence[AppConfig] | None, **_kwargs: Any
) -> list[CheckMessage]:
    """
    Refuse a lease that can run out while its doorbell still waits in memory.

    The lease starts at the claim. Ahead of the doorbell may be a running task, those queued in
    memory, and then its own run: each may take up to the timeout.
    """
    if not Conf.TIMEOUT:
        return [
            Error(
                "Q_CLUSTER has no timeout, so no retry is long enough.",
                hint="Set Q_CLUSTER['timeout'] to the most seconds that a task may take.",
                id="config.Q002",
            )
        ]
    rounds = 2 + ceil(Conf.QUEUE_LIMIT / Conf.WORKERS)
    least = Conf.TIMEOUT * rounds
    if least < Conf.RETRY:
        return []
    return [
        Error(
            f"Q_CLUSTER['retry'] is {Conf.RETRY} s, but a task may wait and run for {least} s "
            f"(timeout {Conf.TIMEOUT} x {rounds}: queue_limit {Conf.QUEUE_LIMIT}, "
            f"workers {Conf.WORKERS}). It would run twice.",
            hint=f"Set Q_CLUSTER['retry'] above {least}, or lower timeout or queue_limit.",
            id="config.Q001",
        )
    ]
