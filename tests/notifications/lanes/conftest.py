"""A clock for lanes that the test moves, and a lane in whatever condition it asks for."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from notifications.lanes import lane_clock, traffic
from notifications.models import Lane


@dataclass
class VirtualClock:
    at: datetime = datetime(2018, 11, 2, 9, 0, tzinfo=UTC)

    def pass_seconds(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


@pytest.fixture
def virtual(monkeypatch) -> VirtualClock:
    virtual = VirtualClock()
    monkeypatch.setattr(lane_clock, "now", lambda: virtual.at)
    return virtual


@pytest.fixture
def lane_of() -> Callable[..., Lane]:
    """The lane of "cards", set as the test says."""

    def make(**facts: Any) -> Lane:
        traffic.grant("cards", wanted=0)
        Lane.objects.filter(provider="cards").update(**facts)
        return Lane.objects.get(provider="cards")

    return make
