"""One provider for all processes of an installation: there while somebody uses it, and not a moment longer."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from billing.gateways.standins.fakestripe import shared

# A process that uses the provider of a folder until it is told to stop, or killed.
USER = """
import sys
from pathlib import Path
from billing.gateways.standins.fakestripe import shared
shared.use(Path(sys.argv[1]))
print("there", flush=True)
sys.stdin.read()
"""
PATIENCE_SECONDS = 15


@pytest.fixture
def folder(tmp_path):
    shared.renew(tmp_path / "provider")
    return tmp_path / "provider"


@pytest.fixture
def user(folder):
    """Starts processes that use the provider; each is killed at the end."""
    users = []

    def start() -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", USER, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=shared.MANAGE.parent,
        )
        assert process.stdout.readline() == b"there\n"
        users.append(process)
        return process

    yield start
    for process in users:
        process.kill()
        process.communicate()
    wait_until(lambda: not answers(folder))


def answers(folder) -> bool:
    return shared._answers(shared.access(folder))


def provider_of(folder) -> psutil.Process:
    [found] = [
        process
        for process in psutil.process_iter(["cmdline"])
        if str(folder / "provider.users") in (process.info["cmdline"] or [])
    ]
    return found


def wait_until(true) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)


class TestSharing:
    def test_ends_with_its_last_user_however_that_one_ends(self, folder, user):
        first, second = user(), user()
        one = provider_of(folder).pid

        first.kill()
        first.wait()
        time.sleep(2 * shared.POLL_SECONDS)
        assert provider_of(folder).pid == one

        second.kill()
        wait_until(lambda: not answers(folder))

    def test_killed_it_is_started_again_by_who_comes_next_with_the_same_book(self, folder, user):
        user()
        os.kill(provider_of(folder).pid, signal.SIGKILL)
        wait_until(lambda: not answers(folder))

        user()

        assert answers(folder)

    def test_a_new_one_has_other_keys_and_an_empty_book(self, folder):
        before = shared.access(folder)
        (folder / "book.sqlite3").write_text("an old one")

        after = shared.renew(folder)

        assert after.secret_key != before.secret_key
        assert not (folder / "book.sqlite3").exists()

    def test_is_not_replaced_under_its_users(self, folder, user, monkeypatch):
        monkeypatch.setattr(shared, "END_TIMEOUT_SECONDS", 0)
        user()

        with pytest.raises(shared.DoesNotStart, match="in use by another process"):
            shared.renew(folder)

    def test_waits_for_the_old_one_to_notice_that_its_last_user_is_gone(self, folder, user):
        before, last = shared.access(folder), user()
        last.kill()
        last.wait()

        after = shared.renew(folder)

        assert after.secret_key != before.secret_key
        assert not shared._answers(before)

    def test_there_is_none_where_none_was_set_up(self, tmp_path):
        assert shared.access(tmp_path) is None

    def test_that_cannot_start_says_why(self, folder):
        (folder / "book.sqlite3").mkdir()
        try:
            with pytest.raises(shared.DoesNotStart, match=r"says.*fakestripe cannot start"):
                shared.use(folder)
        finally:
            os.close(shared._used.pop(folder))
            shared._started.pop().wait(PATIENCE_SECONDS)
