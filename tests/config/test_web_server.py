"""The documented set-up of the web server: whatever a provider does, the other pages answer."""

import math
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.sessions.backends.db import SessionStore
from django.db import connection
from django.middleware.csrf import get_token
from django.test import RequestFactory

from accounts.models import Member
from billing import gateways
from billing.gateways import patience
from billing.models import PaymentAttempt
from billing.payments.charges import calls
from config import web_server
from tests.config.real_cluster import wait_until
from tests.factories import MemberFactory

ROOT: Path = settings.BASE_DIR
# More than the threads of one process.
CUSTOMERS = 12
# As long as it takes until a thread of the provider is told to end: for ever, to the site.
HANGS_SECONDS = 60


class HangingProvider:
    """Takes connections and never answers."""

    def __init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
        self.taken: list[socket.socket] = []
        threading.Thread(target=self._take, daemon=True).start()

    def _take(self) -> None:
        while True:
            try:
                self.taken.append(self.listening.accept()[0])
            except OSError:
                return

    def close(self) -> None:
        self.listening.close()
        for each in self.taken:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@pytest.fixture
def hanging() -> Iterator[HangingProvider]:
    provider = HangingProvider()
    yield provider
    provider.close()


@pytest.fixture
def site(hanging: HangingProvider, tmp_path: Path) -> Iterator[str]:
    """A real gunicorn of one process, as documented, whose provider hangs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        bind = f"127.0.0.1:{free.getsockname()[1]}"
    log = tmp_path / "site.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "gunicorn",
                "--config",
                "python:config.web_server",
                "--bind",
                bind,
            ],
            env={
                **os.environ,
                "DJANGO_SETTINGS_MODULE": "tests.config.site_settings",
                "TEST_DATABASE_NAME": str(connection.settings_dict["NAME"]),
                "WEB_WORKERS": "1",
                # Until the test says that they have waited enough.
                "WEB_PATIENCE_SECONDS": str(HANGS_SECONDS),
                "PROVIDER_URL": hanging.url,
            },
            cwd=ROOT,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    url = f"http://{bind}"

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return urllib.request.urlopen(f"{url}/healthz", timeout=5).status == 200
        except OSError:
            return False

    wait_until(answers, "the site")
    yield url
    process.terminate()
    process.wait(timeout=40)


def signed_in(member: Member) -> dict[str, str]:
    """The cookies of somebody who is signed in, and may send forms."""
    session = SessionStore()
    session[SESSION_KEY] = str(member.user.pk)
    session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
    session[HASH_SESSION_KEY] = member.user.get_session_auth_hash()
    session.create()
    request = RequestFactory().get("/")
    get_token(request)
    return {"sessionid": session.session_key or "", "csrftoken": request.META["CSRF_COOKIE"]}


@pytest.mark.django_db(transaction=True)
def test_pages_answer_while_a_provider_hangs(site: str, hanging: HangingProvider) -> None:
    members = MemberFactory.create_batch(CUSTOMERS)
    jars = [signed_in(member) for member in members]
    answers: list[requests.Response] = []

    def enter_a_card(member: Member, cookies: dict[str, str]) -> None:
        answers.append(
            requests.post(
                f"{site}/accounts/{member.account_id}/cards/add/",
                {"csrfmiddlewaretoken": cookies["csrftoken"]},
                cookies=cookies,
                allow_redirects=False,
                timeout=HANGS_SECONDS,
            )
        )

    customers = [
        threading.Thread(target=enter_a_card, args=each) for each in zip(members, jars, strict=True)
    ]
    for customer in customers:
        customer.start()
    wait_until(lambda: len(hanging.taken) == web_server.threads // 2, "half of the threads waiting")
    healthy = requests.get(f"{site}/healthz", timeout=HANGS_SECONDS)
    page = requests.get(
        f"{site}/accounts/{members[0].account_id}/", cookies=jars[0], timeout=HANGS_SECONDS
    )
    still_waiting = sum(customer.is_alive() for customer in customers)
    hanging.close()
    for customer in customers:
        customer.join()

    assert (healthy.status_code, page.status_code) == (200, 200)
    assert still_waiting == web_server.threads // 2
    # The others were told at once; nobody was ever answered, and everybody is back on their page.
    assert {answer.status_code for answer in answers} == {302}
    assert {answer.headers["Location"] for answer in answers} == {
        f"/accounts/{member.account_id}/cards/" for member in members
    }
    assert len(answers) == CUSTOMERS


class TestTheSetUp:
    def test_has_threads_and_time(self) -> None:
        assert web_server.worker_class == "gthread"
        assert web_server.threads == settings.WEB_THREADS >= 4
        assert web_server.workers == settings.WEB_WORKERS
        # Whatever a page asks of a provider is over before its process could be taken for dead.
        assert settings.WEB_PATIENCE_SECONDS < web_server.graceful_timeout < web_server.timeout

    @pytest.mark.parametrize(
        "path",
        [
            "docs/deploy/systemd/month-close-web.service",
            "Dockerfile",
            "config/management/commands/run.py",
        ],
    )
    def test_is_the_same_everywhere(self, path: str) -> None:
        text = (ROOT / path).read_text()

        assert "python:config.web_server" in text
        assert not any(f"--{each}" in text for each in ("threads", "timeout", "worker-class"))


class TestPatience:
    def test_ends_a_call_to_a_provider_that_hangs(
        self, hanging: HangingProvider, settings: Any
    ) -> None:
        settings.STRIPE_SECRET_KEY, settings.STRIPE_API_BASE = "sk_test_hangs", hanging.url

        stripe = gateways.get("stripe")

        # On a busy machine the time may be over before anything is sent.
        no_answer = (gateways.OutcomeUnknown, gateways.NotSent)
        with patience.until(time.monotonic() + 2), pytest.raises(no_answer):
            stripe.read("pi_1")
        with patience.until(time.monotonic()), pytest.raises(gateways.NotSent):
            stripe.read("pi_1")

        assert len(hanging.taken) <= 1

    def test_holds_in_the_threads_that_call_for_a_page(
        self, hanging: HangingProvider, settings: Any
    ) -> None:
        settings.STRIPE_SECRET_KEY, settings.STRIPE_API_BASE = "sk_test_hangs", hanging.url
        attempt = PaymentAttempt(pk=uuid.uuid4(), gateway="stripe", provider_ref="pi_1")
        window = calls.Window()

        with patience.until(time.monotonic() + 2):
            window.begin(attempt, lambda _: gateways.get("stripe").read("pi_1"), before=math.inf)
        while not (answered := window.answers()):
            pass
        window.close()

        # On a busy machine the thread may come too late to send it at all.
        assert isinstance(answered[attempt], gateways.OutcomeUnknown | gateways.NotSent)

    def test_a_worker_waits_for_as_long_as_a_provider_may_take(self) -> None:
        with patience.turn():
            assert patience.left(25) == 25

    def test_a_page_waits_until_its_time_is_over(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(patience.time, "monotonic", lambda: 100.0)
        with patience.until(104):
            assert patience.left(25) == 4
            assert patience.left(3) == 3
        with patience.until(100), pytest.raises(patience.NobodyWaits), patience.turn():
            pass

    def test_what_is_sent_last_is_waited_for_a_moment(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(patience.time, "monotonic", lambda: 100.0)
        with patience.until(100.01):
            assert patience.left(25) == patience.LEAST_SECONDS
