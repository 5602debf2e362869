"""The documented backup and restore: whole or not at all, also while the services are up."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from io import StringIO
from pathlib import Path

import psycopg2
import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connection
from django_q.models import OrmQ, Schedule

from accounts.models import Account
from billing.close.health import damage
from billing.usage import partitions
from config import backups, checks_restore, schedules
from config.embedded_postgres.account import Account as SystemAccount
from config.embedded_postgres.account import account_for
from config.embedded_postgres.programs import binaries
from tests.factories import AccountFactory
from tests.restoring import copy_of_the_database

DEBIAN = Path("/usr/lib/postgresql/15/bin")
PARTITIONS = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'billing_usageevent'::regclass"


@pytest.fixture
def a_copy(transactional_db) -> Iterator[str]:
    """A copy of the test's database, which may come and go; what a restore keeps is dropped after."""
    with copy_of_the_database() as copy:
        copy.move_there()
        name = connection.settings_dict["NAME"]
        yield name
        connection.close()
        with connection._nodb_cursor() as cursor:
            cursor.execute("SELECT datname FROM pg_database WHERE datname LIKE %s", [f"{name}\\_%"])
            for (kept,) in cursor.fetchall():
                cursor.execute(f'DROP DATABASE "{kept}"')


def value(query: str) -> object:
    with connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone()[0]


class TestTheEmbeddedOne:
    def test_is_as_it_was_at_the_backup_and_what_was_there_is_kept(self, a_copy, tmp_path):
        before = AccountFactory(name="Before")
        schedules.sync()
        OrmQ.objects.create(key="default", payload="x", lock=None)
        partitions_before = value(PARTITIONS)
        call_command("backup", tmp_path / "dump", stdout=StringIO())
        AccountFactory(name="Since")
        partitions.ensure_partitions([date(2044, 4, 1)])
        said = StringIO()
        # As a service has, which is up.
        parameters = connection.get_connection_params()
        with closing(psycopg2.connect(**parameters)) as service:
            call_command("restore", tmp_path / "dump", no_input=True, stdout=said)
            with pytest.raises(psycopg2.Error):
                service.cursor().execute("SELECT 1")

        assert list(Account.objects.values_list("pk", "name")) == [(before.pk, "Before")]
        assert value(PARTITIONS) == partitions_before
        assert value("SELECT current_database()") == a_copy
        assert Schedule.objects.count() == len(schedules.SCHEDULES)
        assert not OrmQ.objects.exists()
        assert damage.found() == []
        kept = said.getvalue().split("DROP DATABASE ")[1].split(".")[0]
        with backups._connected_to(kept):
            assert Account.objects.filter(name="Since").exists()

    def test_stays_as_it_is_where_the_backup_cannot_be_read(self, a_copy, tmp_path):
        (tmp_path / "dump").write_text("no dump")
        AccountFactory()

        with pytest.raises(CommandError, match=f"(?s)pg_restore failed.*{a_copy} is as it was"):
            call_command("restore", tmp_path / "dump", no_input=True)

        assert Account.objects.count() == 1

    def test_stays_as_it_is_where_the_restore_ends_in_the_middle(
        self, a_copy, tmp_path, monkeypatch
    ):
        call_command("backup", tmp_path / "dump", stdout=StringIO())
        AccountFactory()

        def interrupted() -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(schedules, "sync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            call_command("restore", tmp_path / "dump", no_input=True, stdout=StringIO())

        assert Account.objects.count() == 1
        assert value("SELECT count(*) FROM pg_database WHERE datname LIKE '%restored%'") == 0

    def test_stays_as_it_is_where_no_other_can_be_made_beside_it(self, a_copy):
        AccountFactory()

        with pytest.raises(backups.CannotRestore, match=r"already exists.*CREATEDB"):
            backups._create(a_copy, like=a_copy)

        assert Account.objects.count() == 1

    def test_stays_as_it_is_and_open_where_it_cannot_be_renamed(self, a_copy):
        AccountFactory()

        with pytest.raises(backups.CannotRestore, match="does not exist"):
            backups._swap(a_copy, f"{a_copy}_fresh", f"{a_copy}_kept")

        assert Account.objects.count() == 1
        assert value("SELECT count(*) FROM pg_database WHERE datname LIKE '%_kept'") == 0

    def test_asks_for_the_name_of_what_is_replaced(self, monkeypatch):
        monkeypatch.setattr("builtins.input", lambda _: "another")

        with pytest.raises(CommandError, match="Nothing was done"):
            call_command("restore", "dump")

    def test_leaves_the_backup_before_where_a_new_one_cannot_be_made(self, tmp_path, monkeypatch):
        (tmp_path / "dump").write_text("of yesterday")
        monkeypatch.setattr(backups, "_name", lambda: "nowhere")

        with pytest.raises(CommandError, match="pg_dump failed"):
            call_command("backup", tmp_path / "dump")

        assert [path.read_text() for path in tmp_path.iterdir()] == ["of yesterday"]

    def test_reaches_the_server_as_encrypted_as_we_do(self, monkeypatch):
        options = {"sslmode": "verify-full", "sslrootcert": "/etc/root.crt"}
        monkeypatch.setitem(connection.settings_dict, "OPTIONS", options)

        said = backups._environment()

        assert said["PGSSLMODE"] == "verify-full"
        assert said["PGSSLROOTCERT"] == "/etc/root.crt"

    def test_says_which_program_is_not_installed(self, monkeypatch):
        monkeypatch.setattr(backups, "binaries", lambda: Path("/nowhere"))

        with pytest.raises(CommandError, match="pg_dump is not installed"):
            call_command("backup", "dump")


@dataclass
class Debian:
    """Debian's own PostgreSQL 15, in a folder of its own."""

    url: str
    port: int

    def psql(self, statement: str, *, database: str = "month_close") -> str:
        ran = subprocess.run(
            [DEBIAN / "psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align",
             "--set=ON_ERROR_STOP=1", "--host=127.0.0.1", f"--port={self.port}", "--username=postgres",
             f"--dbname={database}"],
            input=statement, capture_output=True, text=True,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.strip()

    def manage(self, *words: object) -> str:
        ran = subprocess.run(
            [sys.executable, "manage.py", *map(str, words)],
            cwd=settings.BASE_DIR,
            env={
                **os.environ,
                "DJANGO_SETTINGS_MODULE": "config.settings.test",
                "DATABASE_URL": self.url,
                "PATH": f"{DEBIAN}:{os.environ['PATH']}",
            },
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout


def as_the_server(account: SystemAccount, *words: object) -> None:
    subprocess.run(
        list(map(str, words)),
        check=True,
        cwd="/",
        env={"LC_ALL": "C"},
        stdout=subprocess.DEVNULL,
        **account.popen_arguments(),
    )


@pytest.fixture
def debian(tmp_path: Path) -> Iterator[Debian]:
    folder = tmp_path / "debian"
    account = account_for(data_dir=folder)
    folder.mkdir()
    account.take_over(path=folder)
    account.open_way_to(path=folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    as_the_server(
        account, DEBIAN / "initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust"
    )
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    log = folder / "log"
    as_the_server(
        account, DEBIAN / "pg_ctl", "-D", folder / "data", "-l", log, "-o", options, "-w", "start"
    )
    yield Debian(f"postgres://postgres@127.0.0.1:{port}/month_close", port)
    as_the_server(account, DEBIAN / "pg_ctl", "-D", folder / "data", "-m", "immediate", "stop")
    shutil.rmtree(folder, ignore_errors=True)


def our_schema() -> str:
    """The test's database as statements that an older server understands."""
    parameters = connection.settings_dict
    dump = subprocess.run(
        [binaries() / "pg_dump", "--no-owner", "--no-privileges", f"--host={parameters['HOST']}",
         f"--username={parameters['USER']}", parameters["NAME"]],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    newer = ("SET transaction_timeout", "\\restrict", "\\unrestrict")
    return "\n".join(line for line in dump.splitlines() if not line.startswith(newer))


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's PostgreSQL 15 is not installed here")
@pytest.mark.django_db(transaction=True)
def test_the_documented_way_on_debians_postgresql(debian: Debian, tmp_path: Path) -> None:
    AccountFactory(name="Before")
    schedules.sync()
    partitions.ensure_partitions([date(2044, 3, 1)])
    debian.psql("CREATE DATABASE month_close", database="postgres")
    debian.psql(our_schema())
    debian.manage("backup", tmp_path / "dump")
    debian.psql(
        "UPDATE accounts_account SET name = 'Since';"
        "CREATE TABLE billing_usageevent_2044_04 PARTITION OF billing_usageevent"
        " FOR VALUES FROM ('2044-04-01') TO ('2044-05-01')"
    )

    said = debian.manage("restore", tmp_path / "dump", "--no-input")

    assert "is kept as month_close_before_" in said.replace("What was there before is", "is")
    assert debian.psql("SELECT name FROM accounts_account") == "Before"
    assert debian.psql("SELECT to_regclass('billing_usageevent_2044_04') IS NULL") == "t"
    assert debian.psql("SELECT to_regclass('billing_usageevent_2044_03') IS NULL") == "f"
    doubled = "SELECT count(*), count(DISTINCT id), count(DISTINCT name) FROM django_q_schedule"
    entries = len(schedules.SCHEDULES)
    assert debian.psql(doubled) == f"{entries}|{entries}|{entries}"
    debian.manage("check", "--database", "default")


@pytest.mark.django_db
class TestWhatAFailedRestoreLeaves:
    @pytest.fixture
    def doubled(self) -> None:
        """As `pg_restore --clean` leaves it behind with the services up."""
        schedules.sync()
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE django_q_schedule DROP CONSTRAINT django_q_schedule_pkey")
            cursor.execute("INSERT INTO django_q_schedule SELECT * FROM django_q_schedule")

    def test_is_noticed(self, doubled, client) -> None:
        errors = [str(e.msg) for e in checks_restore.nothing_stands_twice(None, ["default"])]

        assert "schedule 'sweep' is there twice: manage.py sync_schedules." in errors
        assert "the table of schedules has no key: manage.py sync_schedules." in errors
        assert "schedule &#x27;sweep&#x27; is there twice" in client.get("/readyz").content.decode(
        ) or "schedule 'sweep' is there twice" in client.get("/readyz").content.decode()  # fmt: skip

    def test_is_mended_by_the_command_that_makes_schedules(self, doubled) -> None:
        schedules.sync()

        assert damage.found() == []
        assert Schedule.objects.count() == len(schedules.SCHEDULES)
        new = Schedule.objects.create(name="one more", func="os.abort")
        assert new.pk not in set(
            Schedule.objects.exclude(name="one more").values_list("pk", flat=True)
        )

    def test_of_other_tables_is_told(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE billing_sweep DROP CONSTRAINT billing_sweep_pkey")

        assert damage.found() == [
            "billing_sweep: no primary key, as after a restore that failed: restore once more"
        ]

    def test_is_not_looked_for_in_another_database(self) -> None:
        assert checks_restore.nothing_stands_twice(None, []) == []
