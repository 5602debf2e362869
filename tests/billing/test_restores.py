"""After a restore the page, readiness and the log say which usage and mails may be missing or repeated."""

from datetime import timedelta

import pytest
from django.db.models import F

from accounts import clock
from billing.close.health import sweeper
from billing.models import GatewayGuard, Restore, Sweep
from billing.payments import guard, restores
from billing.workers import heartbeats
from tests.factories import AS_OF, UserFactory
from tests.restoring import copy_of_the_database

pytestmark = pytest.mark.django_db


def swept(*, ago=timedelta(0)):
    heartbeats.note_sweep(failed=[])
    Sweep.objects.update(ended_at=F("ended_at") - ago)
    return Sweep.objects.get()


def in_another_database():
    Sweep.objects.update(database_identity="another")


class TestLook:
    def test_says_nothing_before_anybody_swept_and_in_the_same_database(self, caplog):
        assert restores.look() == 0
        swept()

        assert [restores.look(), restores.look()] == [0, 0]
        assert Sweep.objects.get().database_identity == guard.identity()
        assert not caplog.records

    def test_in_another_database_the_last_sign_of_life_begins_the_window(self, caplog):
        last = swept(ago=timedelta(hours=3))
        in_another_database()

        assert [restores.look(), restores.look()] == [1, 0]

        restore = Restore.objects.get()
        assert restore.known_until == last.ended_at
        assert restore.noticed_at - last.ended_at >= timedelta(hours=3)
        assert f"{restore} may be missing or repeated" in caplog.text

    def test_a_release_that_wrote_no_identity_is_no_other_database(self):
        swept()
        Sweep.objects.update(database_identity="")

        assert restores.look() == 0

    @pytest.mark.parametrize("silent", [True, False])
    def test_where_charges_are_not_known_it_is_when_nobody_swept(self, silent):
        """A copy of the disk has the same identity."""
        last = swept(ago=timedelta(hours=2) if silent else timedelta(seconds=30))
        restores.look()
        swept()
        GatewayGuard.objects.create(
            gateway="sandbox",
            database_identity=guard.identity(),
            server_started_at=AS_OF,
            checked_at=AS_OF,
            paused_at=clock.now(),
            paused_because="the provider has charges that this database has lost: pi_1",
        )

        assert [restores.look(), restores.look()] == [1, 0]

        restore = Restore.objects.get()
        assert "pi_1" in restore.because
        if silent:
            assert restore.known_until == last.ended_at

    def test_a_gateway_that_closed_in_another_database_is_told_of_once(self):
        swept()
        in_another_database()
        GatewayGuard.objects.create(
            gateway="sandbox",
            database_identity="another",
            server_started_at=AS_OF,
            checked_at=AS_OF,
            paused_at=clock.now(),
            paused_because=guard.ANOTHER_DATABASE,
        )

        assert [restores.look(), restores.look()] == [1, 0]


@pytest.mark.django_db(transaction=True)
def test_a_database_restored_from_a_dump_says_so_with_the_next_sweep(client):
    sweeper.sweep(as_of=AS_OF)
    sweeper.sweep(as_of=AS_OF)
    with copy_of_the_database() as copy:
        copy.move_there()
        sweeper.sweep(as_of=AS_OF)
        window = str(Restore.objects.get())
        client.force_login(UserFactory(is_staff=True, is_superuser=True))
        page = client.get("/runs/").content.decode()
        ready = client.get("/readyz?format=json").json()

    assert f"{window} may be missing or repeated" in " ".join(page.split())
    assert f"after a restore {window} may be missing or repeated" in ready["degraded"]


class TestDealingWithIt:
    def test_takes_the_notice_away_and_says_who_did(self, client):
        swept()
        in_another_database()
        restores.look()
        restore = Restore.objects.get()
        client.force_login(UserFactory(is_staff=True, is_superuser=True, email="ann@example.com"))

        record = client.get(f"/admin/billing/restore/{restore.pk}/change/")
        for _ in range(2):
            client.post(
                "/admin/billing/restore/",
                {"action": "deal_with", "_selected_action": [restore.pk]},
            )

        assert b"say so, in the list" in record.content
        restore.refresh_from_db()
        assert restore.dealt_with_by == "ann@example.com"
        assert restores.not_dealt_with() == []
        assert b"may be missing or repeated" not in client.get("/runs/").content
        assert not restores.deal_with(restore_id=restore.pk, actor="ben", as_of=AS_OF)
