"""The first command on a bare machine just works, also after one that was killed half way."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from django.conf import settings
from django.db import DatabaseError

from billing.demo import charging
from billing.gateways.standins.fakestripe import shared
from config import first_use, left_by_demo
from tests.config.embedded import a_place, ask, connect, wait_until

EMBEDDED, GIVEN = "config.embedded_postgres", "django.db.backends.postgresql"


@pytest.fixture
def prepare(monkeypatch, db):
    """Prepare for a command; returns what was called. `migrated`: what each look at the tables says."""

    def prepare(
        *argv: str, engine: str = EMBEDDED, migrated=(False, False), shares=False
    ) -> list[str]:
        called, looks = [], iter(migrated)
        monkeypatch.setattr(
            first_use,
            "settings",
            SimpleNamespace(
                DATABASES={"default": {"ENGINE": engine}},
                SHARES_PROVIDER=shares,
            ),
        )
        monkeypatch.setattr(charging, "use_provider", lambda: called.append("its provider"))
        monkeypatch.setattr(first_use, "_is_migrated", lambda: next(looks))
        monkeypatch.setattr(first_use, "call_command", lambda name, **_: called.append(name))
        first_use.prepare(["manage.py", *argv])
        return called

    return prepare


class TestPrepare:
    @pytest.mark.parametrize("command", ["close_month", "import_usage", "cluster", "run"])
    def test_migrates_the_embedded_database_before_a_command_of_ours(self, prepare, command):
        assert prepare(command) == ["migrate"]

    @pytest.mark.parametrize(
        "argv", [[], ["migrate"], ["shell"], ["compile_catalogs"], ["no such command"]]
    )
    def test_leaves_it_alone_before_any_other(self, prepare, argv):
        assert prepare(*argv) == []

    def test_does_nothing_where_everything_stands(self, prepare):
        assert prepare("close_month", migrated=[True]) == []

    def test_leaves_it_to_another_process_that_was_faster(self, prepare):
        assert prepare("close_month", migrated=[False, True]) == []

    def test_brings_the_provider_that_the_demo_has_left(self, prepare):
        assert prepare("close_month", migrated=[True], shares=True) == ["its provider"]

    @pytest.mark.parametrize("command", ["demo", "fakestripe", "migrate"])
    def test_which_not_every_command_needs(self, prepare, command):
        assert prepare(command, migrated=[True], shares=True) == []

    def test_never_touches_a_database_that_was_given(self, prepare):
        assert prepare("close_month", engine=GIVEN) == []


class TestSettings:
    def test_charge_through_the_provider_that_the_demo_has_left(self, tmp_path):
        provider = shared.renew(tmp_path)

        assert left_by_demo.provider(tmp_path) == {
            "STRIPE_SECRET_KEY": provider.secret_key,
            "STRIPE_WEBHOOK_SECRETS": [provider.webhook_secret],
            "STRIPE_API_BASE": provider.url,
        }

    def test_are_as_they_were_where_it_left_none(self, tmp_path):
        assert left_by_demo.provider(tmp_path) == {}


@pytest.mark.django_db
class TestWhetherItIsMigrated:
    def test_it_is_when_nothing_is_left_to_apply(self):
        assert first_use._is_migrated()

    def test_it_is_not_when_a_kill_has_left_it_half_done(self, monkeypatch):
        class HalfDone(first_use.MigrationLoader):
            def build_graph(self):
                super().build_graph()
                self.applied_migrations.pop(self.graph.leaf_nodes("billing")[0])

        monkeypatch.setattr(first_use, "MigrationLoader", HalfDone)

        assert not first_use._is_migrated()


@pytest.mark.django_db
class TestAKillInTheMiddle:
    def test_is_healed_by_the_next_two_commands_at_once(self):
        with a_place() as place:
            data_dir = place / "pg"
            killed = close_report(data_dir)
            seen = connect(data_dir)
            wait_until(lambda: migrations(seen) > 2)
            killed.send_signal(signal.SIGKILL)
            killed.communicate()
            half = migrations(seen)

            both = [close_report(data_dir) for _ in range(2)]
            said = [process.communicate(timeout=120)[0] for process in both]

            assert all("2018-10 was never closed" in words for words in said), said
            assert migrations(seen) > half
            seen.close()


def close_report(data_dir) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(settings.BASE_DIR / "manage.py"), "close_report", "2018-10"],
        env={
            **{name: value for name, value in os.environ.items() if name != "DATABASE_URL"},
            "DATABASE_URL": "",
            "DJANGO_SETTINGS_MODULE": "config.settings.test",
            "TEST_DB_DIR": str(data_dir),
            "TEST_DATABASE_NAME": "month_close",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def migrations(connection) -> int:
    try:
        return int(ask(connection, "SELECT count(*) FROM django_migrations"))
    except DatabaseError:
        return 0
