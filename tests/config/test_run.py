"""`manage.py run`: the site answers, the workers work, and none outlives the others."""

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import connection

from accounts.models import User
from billing.demo import charging, provider
from config.management.commands import run
from tests.config.real_cluster import wait_until
from tests.factories import UserFactory


class Run:
    """A real run on the database of the test."""

    def __init__(self, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.bind = f"127.0.0.1:{free.getsockname()[1]}"
        self.log = log
        with log.open("w") as out:
            self.process = subprocess.Popen(
                [*run.manage("run"), "--bind", self.bind],
                env={
                    **os.environ,
                    "DJANGO_SETTINGS_MODULE": "config.settings.test",
                    "TEST_DATABASE_NAME": str(connection.settings_dict["NAME"]),
                    "WORKERS": "1",
                },
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.seen: list[psutil.Process] = []

    def stands(self) -> bool:
        """Whether the site answers and the workers have started; remembers who they are."""
        assert self.process.poll() is None, self.log.read_text()
        self.seen = psutil.Process(self.process.pid).children(recursive=True)
        return "Cluster: queues" in self.log.read_text() and self.answers("/admin/login/") == 200

    def answers(self, path: str) -> int | None:
        try:
            with urllib.request.urlopen(f"http://{self.bind}{path}", timeout=5) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    def is_gone(self) -> bool:
        return not any(
            child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in self.seen
        )


@pytest.fixture
def a_run(tmp_path: Path) -> Iterator[Run]:
    a_run = Run(tmp_path / "run.log")
    wait_until(a_run.stands, "the site and the workers")
    yield a_run
    if a_run.process.poll() is None:
        a_run.process.kill()
        a_run.process.wait()
    wait_until(a_run.is_gone, "the end of every part")


@pytest.mark.django_db(transaction=True)
class TestARealRun:
    def test_serves_pages_and_their_style_and_stops_on_ctrl_c(self, a_run: Run) -> None:
        assert a_run.answers("/static/admin/css/base.css") == 200

        a_run.process.send_signal(signal.SIGINT)

        assert a_run.process.wait(timeout=30) == 0, a_run.log.read_text()
        wait_until(a_run.is_gone, "the end of every part")

    def test_leaves_nothing_behind_when_it_is_killed(self, a_run: Run) -> None:
        a_run.process.kill()
        a_run.process.wait()

        wait_until(a_run.is_gone, "the end of every part")


@pytest.mark.django_db
class TestWhatItSays:
    @pytest.fixture(autouse=True)
    def no_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(run.Together, "run", lambda _together: 3)

    def said(self, capsys: pytest.CaptureFixture[str]) -> str:
        with pytest.raises(SystemExit) as end:
            call_command("run")

        assert end.value.code == 3
        return capsys.readouterr().out

    def test_the_address_and_that_nobody_may_sign_in(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        said = self.said(capsys)

        assert "http://127.0.0.1:8000/admin/" in said
        assert "createsuperuser" in said

    def test_nothing_of_signing_in_once_somebody_can(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        UserFactory(is_staff=True)

        assert "createsuperuser" not in self.said(capsys)

    def test_to_a_shared_provider_where_its_events_go(
        self,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        settings: Any,
    ) -> None:
        told: list[str] = []
        monkeypatch.setattr(charging, "tell", told.append)

        self.said(capsys)
        assert told == []
        settings.SHARES_PROVIDER = True
        self.said(capsys)

        assert told == ["http://127.0.0.1:8000/webhooks/stripe/"]

    def test_the_logins_of_the_demo_unless_their_password_was_changed(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        User.objects.create_superuser(provider.STAFF_EMAIL, provider.PASSWORD)
        User.objects.create_user("customer1@demo.example", provider.PASSWORD)
        User.objects.create_user("customer2@demo.example", "their own")

        said = self.said(capsys)

        assert "support@demo.example / demo\n  customer1@demo.example / demo\n" in said
        assert "customer2" not in said


@pytest.mark.parametrize(("part", "word"), [(run.SITE, "gunicorn"), (run.WORKERS, "cluster")])
def test_a_part_dies_with_its_run_before_it_becomes_itself(
    monkeypatch: pytest.MonkeyPatch, part: str, word: str
) -> None:
    happened: list[object] = []
    monkeypatch.setattr(run, "die_with", happened.append)
    monkeypatch.setattr(run.os, "execve", lambda _path, *rest: happened.extend(rest))
    monkeypatch.delenv("TRIAL", raising=False)

    call_command("run", part=part, started_by=17)

    assert happened[0] == 17
    assert isinstance(happened[1], list)
    assert happened[1][0] == sys.executable
    assert word in happened[1]
    assert isinstance(happened[2], dict)
    assert happened[2]["TRIAL"] == "true"


def test_a_run_is_a_trial_unless_somebody_says_that_it_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environments: list[dict[str, str]] = []
    monkeypatch.setattr(run, "die_with", lambda _pid: None)
    monkeypatch.setattr(run.os, "execve", lambda *said: environments.append(said[2]))
    monkeypatch.setenv("TRIAL", "false")

    call_command("run", part=run.SITE, started_by=17)

    assert environments[0]["TRIAL"] == "false"


def test_parts_are_commands_of_this_project() -> None:
    assert run.manage("run")[1] == str(settings.BASE_DIR / "manage.py")
