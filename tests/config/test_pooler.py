"""pgbouncer in transaction mode: what cannot work is refused; and how a machine that went silent is noticed."""

import pytest
from django.core.checks import registry
from django.core.management import CommandError, call_command
from django.db import connection

from config import checks_pooler, silence
from config.checks_pooler import pooled_sessions_end, pooler_fits_the_settings

BEHIND_A_POOLER = {
    "ENGINE": "django.db.backends.postgresql",
    "OPTIONS": {"connect_timeout": 10},
    "DISABLE_SERVER_SIDE_CURSORS": True,
}


@pytest.fixture
def pooled(settings):
    settings.DATABASE_POOLED = True
    return settings


def ids(found) -> list[str]:
    return [message.id for message in found]


class TestSettings:
    def test_are_not_looked_at_without_a_pooler(self):
        assert pooler_fits_the_settings in registry.registry.get_checks()
        assert pooler_fits_the_settings(None) == []

    def test_that_fit(self, pooled, monkeypatch):
        monkeypatch.setitem(pooled.DATABASES, "default", BEHIND_A_POOLER)

        assert pooler_fits_the_settings(None) == []

    def test_with_the_embedded_server_are_refused(self, pooled, monkeypatch):
        embedded = BEHIND_A_POOLER | {"ENGINE": checks_pooler.EMBEDDED}
        monkeypatch.setitem(pooled.DATABASES, "default", embedded)

        assert ids(pooler_fits_the_settings(None)) == ["config.P001"]

    def test_that_begin_a_session_with_options_are_refused(self, pooled, monkeypatch):
        with_options = BEHIND_A_POOLER | {"OPTIONS": {"options": "-c work_mem=1GB"}}
        monkeypatch.setitem(pooled.DATABASES, "default", with_options)

        [error] = pooler_fits_the_settings(None)

        assert (error.id, "work_mem" in error.msg) == ("config.P002", True)

    def test_with_cursors_on_the_server_are_refused(self, pooled, monkeypatch):
        with_cursors = BEHIND_A_POOLER | {"DISABLE_SERVER_SIDE_CURSORS": False}
        monkeypatch.setitem(pooled.DATABASES, "default", with_cursors)

        assert ids(pooler_fits_the_settings(None)) == ["config.P003"]

    def test_do_not_let_a_file_be_read_into_temporary_tables(self, pooled, tmp_path):
        with pytest.raises(CommandError, match="DATABASE_POOLED=false"):
            call_command("import_usage", str(tmp_path / "usage.csv"), "--format", "csv")


@pytest.mark.django_db
class TestSessions:
    def test_are_asked_for_their_end_only_behind_a_pooler(self, settings):
        assert pooled_sessions_end in registry.registry.get_checks(include_deployment_checks=True)
        assert pooled_sessions_end(None, databases=["default"]) == []

    def test_are_not_asked_unless_databases_are_checked(self, pooled):
        assert pooled_sessions_end(None, databases=None) == []

    def test_that_never_end_are_warned_of(self, pooled):
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL idle_in_transaction_session_timeout = 0")

            [warning] = pooled_sessions_end(None, databases=["default"])

        assert warning.id == "config.P004"
        assert "SET idle_in_transaction_session_timeout = '60s'" in warning.hint

    def test_that_end_are_fine(self, pooled):
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL idle_in_transaction_session_timeout = '60s'")

        assert pooled_sessions_end(None, databases=["default"]) == []


class TestSilence:
    def test_is_noticed_from_both_ends_in_the_same_time(self):
        options = silence.noticed({}, after_seconds=60, pooled=False)["OPTIONS"]

        ours = (
            options["keepalives_idle"]
            + options["keepalives_interval"] * options["keepalives_count"]
        )
        theirs = dict(word.split("=") for word in options["options"].split() if "=" in word)
        assert ours == 60
        assert theirs["idle_in_transaction_session_timeout"] == "60000"
        assert int(theirs["tcp_keepalives_idle"]) + 3 * int(theirs["tcp_keepalives_interval"]) == 60

    def test_behind_a_pooler_is_said_for_our_end_alone(self):
        options = silence.noticed({}, after_seconds=60, pooled=True)["OPTIONS"]

        assert "options" not in options
        assert options["tcp_user_timeout"] == 60_000

    def test_leaves_what_the_url_says(self):
        url = {"NAME": "billing", "OPTIONS": {"connect_timeout": 3, "sslmode": "require"}}

        database = silence.noticed(url, after_seconds=60, pooled=False)

        assert database["NAME"] == "billing"
        assert database["OPTIONS"]["connect_timeout"] == 3
        assert database["OPTIONS"]["sslmode"] == "require"

    def test_is_never_asked_about_without_a_pause(self):
        options = silence.noticed({}, after_seconds=1, pooled=True)["OPTIONS"]

        assert (options["keepalives_idle"], options["keepalives_interval"]) == (1, 1)
