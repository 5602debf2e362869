"""The embedded server, with real servers: shared, killed, recovered, and refused where it must be."""

import fcntl
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError

from config.embedded_postgres import account, folder, programs, server
from config.embedded_postgres.account import Account, account_for
from config.embedded_postgres.folder import StartFailed, UnusableFolder
from config.embedded_postgres.server import Server
from tests.config.embedded import (
    PROLOGUE,
    ROOT,
    a_place,
    ask,
    connect,
    finish,
    is_alive,
    kill_server,
    postmaster_pid,
    spawn,
    wait_until,
)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as somebody else")
needs_proc = pytest.mark.skipif(not Path("/proc").exists(), reason="reads /proc")

HOLD = "ask('SELECT 1'); say('in'); input()"
IN_AND_OUT = "say(ask('SELECT 1'))"


@pytest.fixture(autouse=True)
def _database_access(django_db_blocker):
    with django_db_blocker.unblock():
        yield


@pytest.fixture
def place():
    with a_place() as place:
        yield place


@pytest.fixture
def data_dir(place):
    return place / "data"


@pytest.fixture
def connection(data_dir):
    # Durable: without synchronous_commit, a killed server forgets its last commits.
    with closing(connect(data_dir, fsync=True)) as connection:
        yield connection


@pytest.fixture
def running(connection):
    """A server of ours with one committed row."""
    ask(connection, "CREATE TABLE kept AS SELECT 42 AS answer")
    return connection.server


@pytest.fixture
def own_account():
    return Account(uid=os.geteuid(), gid=os.getegid())


class TestFirstUse:
    def test_naming_the_server_starts_nothing(self, connection, place):
        assert connection.server.socket_dir

        assert list(place.iterdir()) == []

    def test_creates_a_utf8_database_on_a_private_socket(self, running, connection):
        assert ask(connection, "SELECT current_database()") == "month_close"
        assert ask(connection, "SHOW server_encoding") == "UTF8"
        assert ask(connection, "SELECT upper('árvíztűrő')") == "ÁRVÍZTŰRŐ"
        assert ask(connection, "SHOW listen_addresses") == ""
        assert stat.S_IMODE(running.socket_dir.stat().st_mode) == 0o700

    def test_is_tuned_and_ends_transactions_that_were_left_open(self, connection):
        assert ask(connection, "SHOW shared_buffers") == "256MB"
        assert ask(connection, "SHOW max_connections") == "200"
        assert ask(connection, "SHOW idle_in_transaction_session_timeout") == "1min"

    @pytest.mark.parametrize(("fsync", "shown"), [(True, "on"), (False, "off")])
    def test_is_durable_unless_a_test_asks_otherwise(self, data_dir, fsync, shown):
        with closing(connect(data_dir, fsync=fsync)) as connection:
            names = ["fsync", "synchronous_commit", "full_page_writes"]
            assert [ask(connection, f"SHOW {name}") for name in names] == [shown] * 3

    def test_four_processes_at_the_same_instant_share_one_server(self, data_dir):
        body = "say(ask('SELECT system_identifier FROM pg_control_system()')); input()"
        processes = [spawn(body, data_dir) for _ in range(4)]

        said = {process.stdout.readline() for process in processes}
        postmaster = postmaster_pid(data_dir)
        for process in processes:
            process.communicate("\n", timeout=60)

        assert len(said) == 1
        assert [process.returncode for process in processes] == [0] * 4
        wait_until(lambda: not is_alive(postmaster))

    def test_two_test_runners_make_their_databases_at_once(self, data_dir):
        body = """
connection.settings_dict["TEST"]["NAME"] = None
connection.creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
say(ask("SELECT current_database()"))
input()
connection.creation.destroy_test_db("month_close", verbosity=0)
"""
        runners = [
            spawn(body.replace("None", f"'test_month_close_gw{n}'"), data_dir) for n in range(2)
        ]

        said = [runner.stdout.readline().strip() for runner in runners]
        for runner in runners:
            runner.communicate("\n", timeout=60)

        assert said == ["test_month_close_gw0", "test_month_close_gw1"]
        assert [runner.returncode for runner in runners] == [0, 0]

    def test_creates_the_database_that_a_kill_left_out(self, running, connection):
        connection.close()
        with closing(connect(running.data_dir)) as other:
            other.settings_dict["NAME"] = 'late "x"'

            assert ask(other, "SELECT current_database()") == 'late "x"'

    def test_a_half_done_initdb_is_redone(self, data_dir, place):
        unlucky = spawn(IN_AND_OUT, data_dir, start_new_session=True)
        wait_until(lambda: any(place.glob("data.init-*/PG_VERSION")))
        unlucky.kill()
        unlucky.communicate()
        assert not data_dir.exists()

        assert finish(spawn(IN_AND_OUT, data_dir)) == "1\n"
        assert list(place.glob("data.init-*/PG_VERSION")) == []

    def test_what_a_killed_initdb_left_is_cleared_away(self, place, connection):
        (place / "data.init-left" / "base").mkdir(parents=True)
        (place / "data.init-left" / "PG_VERSION").write_text("18\n")

        assert ask(connection, "SELECT 1") == 1
        assert not (place / "data.init-left").exists()

    def test_an_empty_folder_is_taken(self, data_dir, connection):
        data_dir.mkdir()

        assert ask(connection, "SELECT 1") == 1

    def test_a_failing_initdb_is_told_in_its_own_words(self, connection, monkeypatch):
        monkeypatch.setattr(folder, "LOCALE", ("--locale=nowhere",))

        with pytest.raises(OperationalError, match=r"(?s)initdb failed.*nowhere"):
            connection.ensure_connection()

    def test_a_long_path_gets_its_socket_under_tmp(self, place):
        data_dir = place / ("deep" * 20) / "data"
        with closing(connect(data_dir)) as connection:
            assert ask(connection, "SELECT 1") == 1

            socket_dir = connection.server.socket_dir
            assert socket_dir.parent == Path("/tmp")
            assert stat.S_IMODE(socket_dir.stat().st_mode) == 0o700

    def test_dbshell_starts_the_server_for_its_psql(self, connection, monkeypatch):
        asked = []
        monkeypatch.setattr(subprocess, "run", _passing_on(asked, program="psql"))

        connection.client.runshell(["-c", "SELECT 1"])

        assert Path(asked[0][0]) == programs.binaries() / "psql"
        assert str(connection.server.socket_dir) in asked[0]


def _passing_on(asked, *, program):
    """`subprocess.run`, but one program is only noted."""
    run = subprocess.run

    def run_or_note(arguments, **rest):
        if Path(arguments[0]).name != program:
            return run(arguments, **rest)
        return asked.append(arguments)

    return run_or_note


class TestSharing:
    def test_the_last_one_out_stops_the_server(self, data_dir):
        stays = spawn(HOLD, data_dir)
        stays.stdout.readline()
        postmaster = postmaster_pid(data_dir)

        finish(spawn(IN_AND_OUT, data_dir))
        assert is_alive(postmaster)

        stays.communicate("\n", timeout=60)
        assert not is_alive(postmaster)
        assert not (data_dir / "postmaster.pid").exists()

    def test_a_killed_user_does_not_count(self, data_dir):
        killed = spawn(HOLD, data_dir)
        killed.stdout.readline()
        postmaster = postmaster_pid(data_dir)
        killed.kill()
        killed.communicate()
        assert is_alive(postmaster)

        finish(spawn(IN_AND_OUT, data_dir))

        assert not is_alive(postmaster)

    @pytest.mark.parametrize("end", ["os._exit(0)", "sys.exit(0)"])
    def test_a_forked_child_that_ends_leaves_the_server_to_its_parent(self, data_dir, end):
        body = f"""
ask("SELECT 1")
if os.fork() == 0:
    connection.connection = None
    {end}
os.wait()
say(ask("SELECT 'still here'"))
"""
        assert finish(spawn(body, data_dir)) == "still here\n"
        assert not (data_dir / "postmaster.pid").exists()

    def test_a_forked_child_keeps_the_server_when_its_parent_ends(self, data_dir):
        body = """
ask("SELECT 1")
connection.close()
if os.fork() == 0:
    sys.stdin.readline()
    say(ask("SELECT 'still here'"))
"""
        parent = spawn(body, data_dir)
        parent.wait(timeout=60)

        said, _ = parent.communicate("\n", timeout=60)

        assert said == "still here\n"

    def test_a_worker_process_that_used_it_alone_stops_it(self, data_dir):
        body = """
import multiprocessing
worker = multiprocessing.get_context("fork").Process(target=ask, args=["SELECT 1"])
worker.start(); worker.join()
say(worker.exitcode)
"""
        assert finish(spawn(body, data_dir)) == "0\n"
        assert not (data_dir / "postmaster.pid").exists()

    def test_a_daemon_worker_still_at_work_does_not_keep_it(self, data_dir):
        body = """
import multiprocessing
ask("SELECT 1")
multiprocessing.get_context("fork").Process(target=time.sleep, args=[60], daemon=True).start()
"""
        finish(spawn(body, data_dir))

        assert not (data_dir / "postmaster.pid").exists()

    def test_whoever_comes_while_it_stops_waits_and_starts_it_again(self, data_dir):
        processes = [spawn(IN_AND_OUT, data_dir) for _ in range(2)]
        for _ in range(6):
            finish(processes.pop(0))
            processes.append(spawn(IN_AND_OUT, data_dir))

        assert [finish(process) for process in processes] == ["1\n", "1\n"]
        assert not (data_dir / "postmaster.pid").exists()

    def test_two_threads_hold_one_lock(self, running, monkeypatch):
        held = server._joined.pop(running.data_dir)
        flock = fcntl.flock

        def flock_late(lock, how):
            server._joined[running.data_dir] = held
            flock(lock, how)

        monkeypatch.setattr(fcntl, "flock", flock_late)
        thread = threading.Thread(target=running.join)
        thread.start()
        thread.join()

        assert server._joined[running.data_dir] == held

    def test_leaving_twice_is_the_same_as_once(self, running):
        running.leave()
        running.leave()

        assert not running.is_running()

    def test_leaving_a_folder_that_is_gone_makes_no_new_one(self, place):
        gone = Server(data_dir=place / "away" / "data")
        gone.join()
        shutil.rmtree(place / "away")

        gone.leave()

        assert list(place.iterdir()) == []

    def test_leaving_a_dead_server_is_no_error(self, running):
        kill_server(running.data_dir)

        running.leave()

        assert not running.is_running()

    def test_a_server_that_does_not_stop_is_told(self, data_dir, caplog):
        Server(data_dir=data_dir)._stop()

        assert "did not stop" in caplog.text

    def test_a_pipe_behind_the_command_ends_with_it(self, data_dir):
        body = PROLOGUE + "say(ask('SELECT 1')); os.kill(os.getpid(), signal.SIGKILL)"
        command = f'"{sys.executable}" -c "$BODY" {data_dir} | cat'

        piped = subprocess.run(
            command,
            shell=True,
            cwd=ROOT,
            env=os.environ | {"BODY": body},
            timeout=30,
            capture_output=True,
            text=True,
        )

        assert piped.stdout == "1\n"
        assert is_alive(postmaster_pid(data_dir))

    def test_ctrl_c_reaches_us_alone(self, running):
        assert os.getsid(postmaster_pid(running.data_dir)) != os.getsid(0)


class TestRecovery:
    def test_the_next_connection_brings_a_killed_server_back(self, running, connection):
        backend = ask(connection, "SELECT pg_backend_pid()")
        kill_server(running.data_dir)
        wait_until(lambda: not is_alive(backend))
        with pytest.raises(OperationalError):
            ask(connection, "SELECT 1")
        connection.close()

        assert ask(connection, "SELECT answer FROM kept") == 42

    def test_a_fresh_process_brings_a_killed_server_back(self, running):
        kill_server(running.data_dir)

        assert finish(spawn("say(ask('SELECT answer FROM kept'))", running.data_dir)) == "42\n"

    def test_waits_for_a_statement_that_outlived_its_server(self, running, connection):
        at_work = spawn(
            "ask('SET max_parallel_workers_per_gather = 0'); say('in')\n"
            "ask('SELECT count(*) FROM generate_series(1, 12000000)')",
            running.data_dir,
        )
        at_work.stdout.readline()
        kill_server(running.data_dir)
        connection.close()

        assert ask(connection, "SELECT answer FROM kept") == 42
        at_work.communicate(timeout=60)

    @pytest.mark.parametrize("stranger", ["sleep", "nobody", "another postgres", "no number"])
    def test_a_left_over_pid_file_is_no_server(self, running, place, stranger):
        kill_server(running.data_dir)
        sleeper = subprocess.Popen(["sleep", "60"])
        with closing(connect(place / "another")) as another:
            ask(another, "SELECT 1")
            pid = {
                "sleep": sleeper.pid,
                "nobody": 2**22 - 1,
                "another postgres": postmaster_pid(place / "another"),
                "no number": "",
            }[stranger]
            for left_over in [
                running.data_dir / "postmaster.pid",
                running.socket_dir / ".s.PGSQL.5432.lock",
            ]:
                rest = left_over.read_text().split("\n", 1)[1]
                left_over.write_text(f"{pid}\n{rest}")

            with closing(connect(running.data_dir)) as fresh:
                assert ask(fresh, "SELECT answer FROM kept") == 42
            assert ask(another, "SELECT 1") == 1
        sleeper.kill()
        sleeper.wait()

    @needs_proc
    def test_a_server_started_by_hand_is_never_started_twice(self, place, monkeypatch):
        monkeypatch.setattr(server, "SILENCE_TIMEOUT_SECONDS", 0.3)
        by_hand = subprocess.Popen(["postgres", "60"], executable=shutil.which("sleep"))
        wait_until(lambda: is_alive(by_hand.pid))
        data_dir = place / "data"
        data_dir.mkdir()
        (data_dir / "PG_VERSION").write_text("18\n")
        (data_dir / "postmaster.pid").write_text(f"{by_hand.pid}\n")

        with (
            closing(connect(data_dir)) as connection,
            pytest.raises(OperationalError, match="No such file"),
        ):
            connection.ensure_connection()

        assert postmaster_pid(data_dir) == by_hand.pid
        (data_dir / "postmaster.pid").unlink()
        by_hand.kill()
        by_hand.wait()

    def test_asks_pg_ctl_where_there_is_no_proc(self, running, monkeypatch):
        monkeypatch.setattr(server, "PROCESSES", Path("/nowhere"))
        assert running.is_running()

        kill_server(running.data_dir)
        running.leave()

        assert not running.is_running()

    @pytest.mark.parametrize(
        ("words", "patience"),
        [
            ("FATAL:  the database system is starting up", server.START_TIMEOUT_SECONDS),
            ("connection refused", server.SILENCE_TIMEOUT_SECONDS),
            ("FATAL:  sorry, too many clients already", 0),
        ],
    )
    def test_waits_only_for_what_passes(self, words, patience):
        assert server._patience_seconds(psycopg2.OperationalError(words)) == patience


class TestRefusals:
    def test_another_major_version(self, data_dir, connection):
        data_dir.mkdir()
        (data_dir / "PG_VERSION").write_text("15\n")

        with pytest.raises(ImproperlyConfigured) as refused:
            connection.ensure_connection()

        for words in [str(data_dir), "PostgreSQL 15", "PostgreSQL 18", "EMBEDDED_DB_DIR", "dump"]:
            assert words in str(refused.value)

    def test_a_file_in_the_place_of_the_folder(self, data_dir, connection):
        data_dir.write_text("notes")

        with pytest.raises(UnusableFolder, match=r"EMBEDDED_DB_DIR .* not a folder"):
            connection.ensure_connection()

    def test_a_file_above_the_folder(self, place):
        (place / "file").write_text("notes")

        with pytest.raises(UnusableFolder, match="EMBEDDED_DB_DIR"):
            connect(place / "file" / "data").ensure_connection()

    def test_somebody_elses_files(self, data_dir, connection):
        data_dir.mkdir()
        (data_dir / "thesis.txt").write_text("years of work")

        with pytest.raises(UnusableFolder, match="not a PostgreSQL database"):
            connection.ensure_connection()

        assert (data_dir / "thesis.txt").read_text() == "years of work"

    def test_a_path_the_shell_would_read_otherwise(self, place):
        with pytest.raises(UnusableFolder, match="dollars"):
            connect(place / "$HOME").ensure_connection()

    def test_a_folder_of_another_user(self, data_dir):
        data_dir.mkdir()
        if os.geteuid() == 0:
            os.chown(data_dir, 65534, 65534)

        with pytest.raises(UnusableFolder, match="belongs to user"):
            folder.refuse_unusable(data_dir=data_dir, account=Account(uid=4711, gid=4711))

    def test_a_leftover_that_cannot_be_removed(self, running, connection):
        connection.close()
        running.leave()
        (running.socket_dir / ".s.PGSQL.1").mkdir()

        with pytest.raises(UnusableFolder, match=r"\.s\.PGSQL\.1"):
            connection.ensure_connection()

    def test_a_server_that_does_not_start_is_told_with_its_log(self, running, connection):
        connection.close()
        running.leave()
        (running.data_dir / "postgresql.conf").write_text("nonsense = = 1\n")

        with pytest.raises(OperationalError) as failed:
            connection.ensure_connection()

        assert isinstance(failed.value.__cause__, StartFailed)
        assert f"{running.data_dir}.log" in str(failed.value)
        assert "syntax error in file" in str(failed.value)

    @pytest.mark.parametrize("trap", ["link", "open", "file"])
    def test_a_socket_folder_somebody_else_could_use(self, place, connection, trap):
        socket_dir = connection.server.socket_dir
        (place / "theirs").mkdir(mode=0o700)
        if trap == "link":
            socket_dir.symlink_to(place / "theirs")
        elif trap == "open":
            socket_dir.mkdir()
            socket_dir.chmod(0o755)
        else:
            socket_dir.write_text("")

        with pytest.raises(ImproperlyConfigured, match="nobody else may enter"):
            connection.ensure_connection()

    def test_an_installation_without_the_wheel(self, monkeypatch):
        monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)

        with pytest.raises(ImproperlyConfigured, match="DATABASE_URL"):
            programs.binaries()

    def test_a_wheel_without_our_version(self, monkeypatch):
        monkeypatch.setattr(programs, "INSTALLATION", "pginstall0")

        with pytest.raises(ImproperlyConfigured, match="PostgreSQL 18"):
            programs.binaries()


class TestAccount:
    @as_root
    def test_root_runs_it_as_somebody_else(self, running):
        postmaster = postmaster_pid(running.data_dir)

        assert Path(f"/proc/{postmaster}").stat().st_uid == running.data_dir.stat().st_uid != 0

    @as_root
    def test_root_keeps_the_owner_of_a_folder(self, data_dir, connection):
        data_dir.mkdir()
        os.chown(data_dir, 65534, 65534)

        connection.ensure_connection()

        assert Path(f"/proc/{postmaster_pid(data_dir)}").stat().st_uid == 65534

    @as_root
    def test_root_may_restore_a_copy_as_root(self, running, connection):
        connection.close()
        running.leave()
        for path in [running.data_dir, *running.data_dir.rglob("*")]:
            os.chown(path, 0, 0)

        assert ask(connection, "SELECT answer FROM kept") == 42

    @as_root
    def test_an_ordinary_user_runs_it_alone(self, place):
        nobody = _ordinary_user()
        os.chown(place, *nobody)

        said = finish(_spawn_as(nobody, "ask('CREATE TABLE kept ()'); say(os.geteuid())", place))

        assert said == f"{nobody[0]}\n"
        assert (place / "data").stat().st_uid == nobody[0]

    @as_root
    def test_an_ordinary_user_recovers_a_killed_server(self, place):
        nobody = _ordinary_user()
        os.chown(place, *nobody)
        body = """
ask("CREATE TABLE kept AS SELECT 42 AS answer")
os.kill(int((Path(sys.argv[1]) / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
time.sleep(0.3)
connection.close()
say(ask("SELECT answer FROM kept"))
"""
        assert finish(_spawn_as(nobody, body, place, durable=True)) == "42\n"

    @as_root
    def test_an_ordinary_user_is_told_where_it_may_not_write(self, place):
        place.chmod(0o755)

        refused = _spawn_as(_ordinary_user(), IN_AND_OUT, place)

        assert "EMBEDDED_DB_DIR" in refused.communicate(timeout=60)[1]
        assert refused.returncode == 1

    def test_an_ordinary_user_is_the_account(self, data_dir, monkeypatch, own_account):
        monkeypatch.setattr(os, "geteuid", lambda: 4711)

        found = account_for(data_dir=data_dir)

        assert found == Account(uid=4711, gid=own_account.gid)
        assert found.popen_arguments() == {}

    def test_an_ordinary_user_changes_no_rights(self, place, monkeypatch, own_account):
        monkeypatch.setattr(os, "geteuid", lambda: 4711)

        own_account.open_way_to(path=place / "data")

        assert stat.S_IMODE(place.stat().st_mode) == 0o700

    def test_root_opens_the_way_and_no_more(self, place, monkeypatch, caplog):
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        home = place / "home"
        (home / "venv").mkdir(parents=True)
        home.chmod(0o700)
        (home / "venv").chmod(0o750)

        Account(uid=4711, gid=4711).open_way_to(path=home / "venv" / "postgres")

        assert stat.S_IMODE(home.stat().st_mode) == 0o701
        assert stat.S_IMODE((home / "venv").stat().st_mode) == 0o751
        assert len(caplog.records) == 1
        assert f"{home / 'venv'}, {home}" in caplog.text

    def test_root_opens_nothing_that_is_open(self, place, monkeypatch, caplog):
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        place.chmod(0o701)

        Account(uid=4711, gid=4711).open_way_to(path=place / "data")

        assert caplog.records == []

    def test_an_owner_passes_by_its_own_right(self, place):
        assert Account(uid=place.stat().st_uid, gid=0)._may_pass(place)

    def test_root_hands_over_what_is_roots(self, monkeypatch):
        handed = []
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setattr(os, "chown", lambda path, *ids, **_: handed.append((path, *ids)))

        Account(uid=4711, gid=4712).take_over(path=Path("/etc/passwd"))

        assert handed == [(Path("/etc/passwd"), 4711, 4712)]

    def test_root_becomes_the_owner_of_the_data(self, place, monkeypatch, own_account):
        status = os.stat_result([0o40700, 0, 0, 0, 4711, 4712, 0, 0, 0, 0])
        # Undone before the place is cleared: only root may clear it as somebody else.
        with monkeypatch.context() as root:
            root.setattr(os, "geteuid", lambda: 0)
            root.setattr(Path, "stat", lambda _path, **_: status)

            found = account_for(data_dir=place)

            assert found == Account(uid=4711, gid=4712)
            assert found.popen_arguments() == {"user": 4711, "group": 4712, "extra_groups": []}

    def test_root_uses_pgserver_where_there_is_one(self, data_dir, monkeypatch):
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setattr(account, "SYSTEM_USER", "nobody")

        assert account_for(data_dir=data_dir).uid == pwd.getpwnam("nobody").pw_uid

    @pytest.mark.parametrize("useradd", [None, "/bin/false"])
    def test_root_makes_do_with_nobody(self, data_dir, monkeypatch, useradd):
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setattr(account, "SYSTEM_USER", "nobody-of-this-name")
        monkeypatch.setattr(shutil, "which", lambda _name: useradd)

        assert account_for(data_dir=data_dir).uid == pwd.getpwnam("nobody").pw_uid

    def test_root_adds_pgserver_where_it_can(self, data_dir, place, monkeypatch):
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        users = {"nobody": pwd.getpwnam("nobody")}
        monkeypatch.setattr(pwd, "getpwnam", lambda name: users[name])
        monkeypatch.setattr(shutil, "which", lambda _name: "useradd")
        monkeypatch.setattr(
            subprocess,
            "run",
            lambda words, **_: users.update(
                {words[-1]: pwd.struct_passwd(["pgserver", "x", "4711", "4712", "a", "b", "c"])}
            ),
        )

        assert account_for(data_dir=data_dir).uid == "4711"


def _ordinary_user() -> tuple[int, int]:
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def _spawn_as(
    user: tuple[int, int], body: str, place: Path, *, durable: bool = False
) -> subprocess.Popen[str]:
    """The process of an ordinary user, under a Python that such a user may run."""
    packages = {"PYTHONPATH": str(Path(psycopg2.__file__).parent.parent)}
    identity = {"user": user[0], "group": user[1], "extra_groups": [], "env": packages}
    version = f"python3.{sys.version_info.minor}"
    for python in [sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"]:
        try:
            subprocess.run([python, "-c", "import psycopg2"], cwd="/", check=True, **identity)
        except (OSError, subprocess.CalledProcessError):
            continue
        return spawn(body, place / "data", durable=durable, executable=python, **identity)
    pytest.skip("no Python here that an ordinary user may run")
