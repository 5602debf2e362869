"""A lease must outlive the wait in memory, or its doorbell is answered twice."""

import pytest
from django.core.checks import registry
from django_q.conf import Conf

from config.checks_q import lease_outlives_the_queue


@pytest.fixture
def two_workers(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(Conf, "WORKERS", 2)
    monkeypatch.setattr(Conf, "QUEUE_LIMIT", 3)
    monkeypatch.setattr(Conf, "TIMEOUT", 100)
    return monkeypatch


def test_our_settings_are_safe() -> None:
    assert lease_outlives_the_queue in registry.registry.get_checks()
    assert lease_outlives_the_queue(None) == []


def test_a_lease_as_long_as_the_wait_is_refused(two_workers: pytest.MonkeyPatch) -> None:
    two_workers.setattr(Conf, "RETRY", 400)

    [error] = lease_outlives_the_queue(None)

    assert error.id == "config.Q001"
    assert "'retry'] is 400 s" in error.msg
    assert "for 400 s (timeout 100 x 4: queue_limit 3, workers 2)" in error.msg
    assert error.hint == "Set Q_CLUSTER['retry'] above 400, or lower timeout or queue_limit."


def test_a_longer_lease_is_fine(two_workers: pytest.MonkeyPatch) -> None:
    two_workers.setattr(Conf, "RETRY", 401)

    assert lease_outlives_the_queue(None) == []


def test_tasks_without_a_timeout_are_refused(two_workers: pytest.MonkeyPatch) -> None:
    two_workers.setattr(Conf, "TIMEOUT", None)

    [error] = lease_outlives_the_queue(None)

    assert error.id == "config.Q002"
