"""`manage.py fakestripe`."""

import fcntl
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from billing.gateways.standins.fakestripe import shared
from billing.gateways.standins.fakestripe.server import Server
from tests.billing.fakestripe.conftest import speaking_to

ROOT = Path(__file__).parents[3]


def test_it_says_where_it_listens_and_stops_on_ctrl_c(tmp_path, monkeypatch):
    def interrupted(server):
        server.server_close()
        server.book.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(Server, "run", interrupted)
    said = io.StringIO()

    call_command("fakestripe", port=0, book=tmp_path / "sub" / "book", stdout=said)

    assert said.getvalue().startswith("fakestripe listens on http://127.0.0.1:")


def test_it_ends_once_nobody_shares_it(tmp_path, monkeypatch):
    monkeypatch.setattr(shared, "POLL_SECONDS", 0.01)
    users = tmp_path / "provider.users"

    call_command("fakestripe", port=0, book=tmp_path / "book", users=users, stdout=io.StringIO())

    with users.open() as lock, pytest.raises(BlockingIOError):
        # Whoever comes now waits until the process is gone.
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)


@pytest.mark.parametrize("odds", ["rain=1", "429=often"])
def test_it_names_what_it_cannot_understand(tmp_path, odds):
    with pytest.raises(CommandError, match="cannot start"):
        call_command("fakestripe", port=0, book=tmp_path / "book", faults=odds)


def test_a_book_has_one_owner(server, tmp_path):
    with pytest.raises(CommandError, match="locked"):
        call_command("fakestripe", port=0, book=tmp_path / "book.sqlite3")


def test_the_official_sdk_drives_it(tmp_path):
    child = subprocess.Popen(
        [sys.executable, ROOT / "manage.py", "fakestripe", "--port=0", f"--book={tmp_path}/book"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "config.settings.test"},
    )
    try:
        url = child.stdout.readline().split()[3].rstrip(",")
        with speaking_to(url) as client:
            assert client.v1.customers.create({}).object == "customer"
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
