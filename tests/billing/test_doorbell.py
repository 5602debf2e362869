"""A doorbell wakes a worker, once, and only for work that is committed."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest
from django.db import connections, transaction
from django.db.models.functions import Now
from django.utils import timezone
from django_q.conf import Conf
from django_q.models import OrmQ

from billing.workers.doorbell import UnknownQueue, ring, ring_at
from config.cluster import SkipLockedBroker


def waiting(queue: str) -> int:
    return OrmQ.objects.filter(key=queue, lock__lte=Now()).count()


@pytest.mark.django_db
class TestRing:
    def test_asks_for_a_drain_of_the_queue(self) -> None:
        ring("charge")

        doorbell = OrmQ.objects.get()
        assert doorbell.key == "charge"
        assert doorbell.task["func"] == "billing.tasks.drain"
        assert doorbell.task["args"] == ("charge",)
        assert doorbell.task["kwargs"] == {}

    def test_twice_is_the_same_as_once(self) -> None:
        ring("charge")
        ring("charge")
        ring("email")

        assert (waiting("charge"), waiting("email")) == (1, 1)

    def test_tops_up_to_as_many_as_are_asked_for(self) -> None:
        ring("charge", times=2)
        ring("charge", times=4)
        ring("charge", times=3)

        assert waiting("charge") == 4

    def test_rings_again_once_the_doorbell_is_answered(self) -> None:
        ring("charge")
        OrmQ.objects.update(lock=Now() + timedelta(minutes=10))

        ring("charge")

        assert waiting("charge") == 1
        assert OrmQ.objects.count() == 2

    def test_refuses_a_queue_that_nobody_serves(self) -> None:
        with pytest.raises(UnknownQueue, match=r"'chrage'.*default, charge, email"):
            ring("chrage")

        assert not OrmQ.objects.exists()

    def test_is_undone_by_a_rollback(self) -> None:
        with transaction.atomic():
            ring("charge")
            transaction.set_rollback(True)

        assert not OrmQ.objects.exists()


@pytest.mark.django_db
class TestRingAt:
    @pytest.fixture
    def soon(self) -> datetime:
        return timezone.now() + timedelta(minutes=5)

    def test_is_not_heard_before(self, soon: datetime) -> None:
        ring_at("charge", soon)

        assert waiting("charge") == 0
        assert OrmQ.objects.get(key="charge", lock=soon).task["args"] == ("charge",)

    def test_within_a_second_is_the_same_as_once(self, soon: datetime) -> None:
        ring_at("charge", soon)
        ring_at("charge", soon)
        ring_at("charge", soon + timedelta(seconds=1))
        ring_at("email", soon)

        assert OrmQ.objects.filter(key="charge").count() == 2
        assert OrmQ.objects.filter(key="email").count() == 1

    def test_refuses_a_queue_that_nobody_serves(self, soon: datetime) -> None:
        with pytest.raises(UnknownQueue):
            ring_at("chrage", soon)


@pytest.mark.concurrency
@pytest.mark.django_db(transaction=True)
class TestRingInATransaction:
    @pytest.fixture
    def elsewhere(self) -> Iterator[ThreadPoolExecutor]:
        """Another database connection."""
        with ThreadPoolExecutor(1) as pool:
            yield pool
            pool.submit(connections.close_all).result()

    def test_is_heard_after_the_commit(
        self, elsewhere: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Conf, "POLL", 0)
        broker = SkipLockedBroker()

        with transaction.atomic():
            ring("charge")
            assert elsewhere.submit(broker.dequeue).result() is None

        assert elsewhere.submit(broker.dequeue).result()

    def test_holds_back_the_doorbell_it_leans_on(
        self, elsewhere: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Conf, "POLL", 0)
        broker = SkipLockedBroker()
        ring("charge")

        with transaction.atomic():
            ring("charge")
            assert elsewhere.submit(broker.dequeue).result() is None

        assert elsewhere.submit(broker.dequeue).result()
        assert waiting("charge") == 0

    def test_does_not_wait_for_another_ring(self, elsewhere: ThreadPoolExecutor) -> None:
        ring("charge")

        with transaction.atomic():
            ring("charge")
            elsewhere.submit(ring, "charge").result(timeout=10)

        assert waiting("charge") == 2
