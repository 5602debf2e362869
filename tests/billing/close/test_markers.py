"""A step that kills its worker within the database: found, and dead, though each death takes all back."""

from contextlib import suppress
from datetime import timedelta

import pytest
from django.db import InterfaceError, OperationalError, connection
from django.db.models.functions import Now

from billing.close.engine import claiming, markers
from billing.close.health import sweeper
from billing.close.step import Chunk
from billing.models import ClaimMarker, Step
from tests.billing.close.test_runner import (
    Module,
    accounts,  # noqa: F401
    does_all,
    fails_on,
    invoices,  # noqa: F401
    raising,
)
from tests.factories import AS_OF
from tests.provider import Killed
from tests.workers import at_once

pytestmark = pytest.mark.django_db(transaction=True)


def a_minute_later() -> int:
    ClaimMarker.objects.update(noted_at=Now() - timedelta(minutes=1))
    return sweeper.sweep(as_of=AS_OF)["claims"]


class TestAClaimMarker:
    def test_is_gone_with_the_commit(self, invoices):  # noqa: F811
        seen = []

        def perform(chunk: Chunk):
            seen.append(list(ClaimMarker.objects.values_list("step_ids", flat=True)))
            return does_all(chunk)

        Module(perform).work()

        assert [len(ids) for ids in seen[0]] == [7]
        assert not ClaimMarker.objects.exists()

    def test_is_gone_after_an_error(self, invoices):  # noqa: F811
        Module(fails_on(invoices[0].account)).work()

        assert not ClaimMarker.objects.exists()

    def test_is_gone_even_if_the_connection_was_cut(self, invoices):  # noqa: F811
        def cut_off(_chunk: Chunk):
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

        with pytest.raises(OperationalError):
            Module(cut_off).work()

        assert not ClaimMarker.objects.exists()

    def test_stays_where_the_database_stays_away_and_the_trouble_is_told(
        self,
        invoices,  # noqa: F811
        monkeypatch,
    ):
        def away(_step_ids):
            raise OperationalError("the database system is in recovery mode")

        monkeypatch.setattr(markers, "erase", away)

        with pytest.raises(InterfaceError, match="closed"):
            Module(raising(InterfaceError("connection already closed"))).work()
        assert ClaimMarker.objects.exists()

    def test_left_over_finds_the_one_that_kills_its_worker(self, invoices, monkeypatch):  # noqa: F811
        monkeypatch.setattr(claiming, "SUSPECTS_TOGETHER", 3)
        poison = invoices[4]
        seen = []

        def perform(chunk: Chunk):
            seen.append(len(chunk.steps))
            if poison in chunk.steps:
                raise Killed
            return does_all(chunk)

        while Step.objects.filter(kind="INVOICE", state__in=Step.OPEN).exists():
            with suppress(Killed):
                Module(perform).work()
            a_minute_later()

        assert seen == [7, 3, 3, 1, 1, 1, 1]
        assert set(
            Step.objects.filter(kind="INVOICE").exclude(pk=poison.pk).values_list("state")
        ) == {("DONE",)}
        poison.refresh_from_db()
        assert (poison.state, poison.because) == ("DEAD", "its worker died 3 times")

    def test_of_a_worker_that_lives_counts_nothing(self, invoices):  # noqa: F811
        counted = []

        def perform(chunk: Chunk):
            counted.extend(at_once(a_minute_later))
            return does_all(chunk)

        Module(perform).work()

        assert counted == [0]
        assert not Step.objects.filter(deaths__gt=0).exists()

    def test_that_another_sweeper_has_counted_meanwhile_is_counted_once(self, invoices):  # noqa: F811
        for step in invoices:
            ClaimMarker.objects.create(step_ids=[step.pk])
        ClaimMarker.objects.update(noted_at=Now() - timedelta(minutes=1))
        counted = []

        def meanwhile(_dead: object) -> None:
            # In the middle of the first: the others were seen, and are not counted yet.
            if not counted:
                counted.extend(at_once(lambda: markers.count_deaths(lambda dead: None)))

        counted.append(markers.count_deaths(meanwhile))

        assert counted == [6, 1]
        assert set(Step.objects.filter(kind="INVOICE").values_list("deaths")) == {(1,)}

    def test_never_counts_those_beside_it_to_death(self, invoices):  # noqa: F811
        ids = [step.pk for step in invoices]
        for _ in range(5):
            ClaimMarker.objects.create(step_ids=ids)

        a_minute_later()

        assert set(Step.objects.filter(pk__in=ids).values_list("state", "deaths")) == {("READY", 2)}
