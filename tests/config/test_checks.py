"""An unsafe database is refused before the first query reaches it."""

import os
from contextlib import closing
from types import SimpleNamespace

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import ConnectionHandler, OperationalError

from config import checks
from config.checks import UnsafeDatabase, refuse_unsafe_database
from tests.config.embedded import a_place, ask, connect


@pytest.fixture(autouse=True)
def _first_connection(django_db_blocker, monkeypatch):
    monkeypatch.setattr(checks, "_trusted", set())
    with django_db_blocker.unblock():
        yield


@pytest.fixture
def place():
    with a_place() as place:
        yield place


@pytest.fixture
def unsafe(place):
    with closing(connect(place / "data", fsync=False)) as connection:
        yield connection


@pytest.fixture
def safe(place):
    with closing(connect(place / "data", fsync=True)) as connection:
        yield connection


@pytest.fixture
def count_looks(monkeypatch):
    looks = []
    verify = checks._verify
    monkeypatch.setattr(checks, "_verify", lambda found: (looks.append(found), verify(found)))
    return looks


class TestDurability:
    def test_refuses_what_a_power_cut_would_lose(self, unsafe, settings):
        settings.DATABASE_MUST_BE_DURABLE = True

        with pytest.raises(ImproperlyConfigured) as refused:
            ask(unsafe, "SELECT 1")

        for words in [
            "fsync = on",
            "full_page_writes = on",
            "synchronous_commit = on",
            "'default'",
        ]:
            assert words in str(refused.value)

    def test_refuses_it_the_second_time_too(self, unsafe, settings):
        settings.DATABASE_MUST_BE_DURABLE = True

        for _ in range(2):
            with pytest.raises(UnsafeDatabase):
                ask(unsafe, "SELECT 1")

        assert unsafe.connection is None

    def test_names_only_what_is_off(self, safe, settings):
        settings.DATABASE_MUST_BE_DURABLE = True
        ask(safe, "SELECT 1")
        ask(safe, "ALTER DATABASE month_close SET synchronous_commit = off")
        safe.close()
        checks._trusted.clear()

        with pytest.raises(UnsafeDatabase) as refused:
            ask(safe, "SELECT 1")

        assert "synchronous_commit = on" in str(refused.value)
        assert "fsync = on" not in str(refused.value)

    def test_lets_tests_be_quick(self, unsafe, settings):
        settings.DATABASE_MUST_BE_DURABLE = False

        assert ask(unsafe, "SELECT 1") == 1

    def test_trusts_a_durable_server(self, safe, settings):
        settings.DATABASE_MUST_BE_DURABLE = True

        assert ask(safe, "SELECT 1") == 1

    def test_looks_at_a_server_of_somebody_elses_too(self, unsafe, settings):
        ask(unsafe, "SELECT 1")
        checks._trusted.clear()
        settings.DATABASE_MUST_BE_DURABLE = True
        known = unsafe.settings_dict
        where = {name: known[name] for name in ["NAME", "HOST", "PORT", "USER"]}
        by_url = ConnectionHandler(
            {"default": {"ENGINE": "django.db.backends.postgresql", **where}}
        )

        with pytest.raises(UnsafeDatabase, match="fsync"):
            ask(by_url["default"], "SELECT 1")


class TestKind:
    def test_refuses_what_is_not_postgresql(self):
        in_memory = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}

        with pytest.raises(UnsafeDatabase, match=r"SQLite.*need PostgreSQL"):
            ask(ConnectionHandler({"default": in_memory})["default"], "SELECT 1")

    @pytest.mark.parametrize("version", ["90624", "140019"])
    def test_refuses_an_old_postgresql(self, version):
        closed = []

        with pytest.raises(
            UnsafeDatabase, match=f"PostgreSQL {int(version) // 10000}: 15 or newer"
        ):
            refuse_unsafe_database(connection=_answering([version, "on", "on", "on"], closed))

        assert closed == [True]

    def test_accepts_the_oldest_we_promise(self):
        refuse_unsafe_database(connection=_answering(["150000", "on", "on", "on"], []))

    def test_refuses_a_pooler_that_nobody_has_told_us_of(self, settings):
        closed = []

        with pytest.raises(UnsafeDatabase, match="through a pooler: set DATABASE_POOLED=true"):
            refuse_unsafe_database(
                connection=_answering(["150000", "on", "on", "on"], closed, behind_a_pooler=True)
            )

        assert closed == [True]
        settings.DATABASE_POOLED = True
        refuse_unsafe_database(
            connection=_answering(["150000", "on", "on", "on"], [], behind_a_pooler=True)
        )

    def test_trusts_nothing_it_could_not_ask(self):
        closed = []

        with pytest.raises(OperationalError):
            refuse_unsafe_database(connection=_answering(OperationalError("gone"), closed))

        assert closed == [True]
        assert checks._trusted == set()


def _answering(answer, closed, *, behind_a_pooler=False):
    """A connection to a server of our choice, that notes when it is closed."""

    class Cursor:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def execute(self, _sql):
            if isinstance(answer, Exception):
                raise answer

        def fetchone(self):
            return [4711, *answer]

    return SimpleNamespace(
        alias="default",
        vendor="postgresql",
        connection=SimpleNamespace(
            cursor=Cursor, info=SimpleNamespace(backend_pid=1 if behind_a_pooler else 4711)
        ),
        close=lambda: closed.append(True),
    )


class TestHowOften:
    def test_asks_once_per_process(self, unsafe, count_looks):
        ask(unsafe, "SELECT 1")
        unsafe.close()
        ask(unsafe, "SELECT 1")

        assert len(count_looks) == 1

    def test_a_forked_child_asks_again(self, unsafe, count_looks, monkeypatch):
        ask(unsafe, "SELECT 1")
        unsafe.close()
        monkeypatch.setattr(os, "getpid", lambda: 4711)
        ask(unsafe, "SELECT 1")

        assert len(count_looks) == 2

    def test_every_process_of_the_project_asks(self, unsafe):
        from django.conf import settings
        from django.db.backends.signals import connection_created

        assert "config" in settings.INSTALLED_APPS
        assert refuse_unsafe_database in connection_created._live_receivers(None)[0]
