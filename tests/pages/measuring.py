"""A site and a cluster on the world's database, people who look at its pages, and how long those take."""

import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.base")
django.setup()

from django.conf import settings  # noqa: E402 - after the set-up
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY  # noqa: E402
from django.contrib.sessions.backends.db import SessionStore  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connection  # noqa: E402

from accounts.models import Account, Member, User  # noqa: E402
from billing.models import CloseRun, RunProgress, Step  # noqa: E402
from billing.workers import doorbell  # noqa: E402
from tests.pages import world  # noqa: E402
from tests.storm.stage import free_port  # noqa: E402

# As run.js asks.
LOOK_EVERY_SECONDS = 3
TIMEOUT_SECONDS = 60


def measure(*, accounts: int, seconds: int, viewers: int) -> dict[str, object]:
    """Build the world, let a cluster close what is left of it, look meanwhile, and add up."""
    call_command("migrate", verbosity=0)
    call_command("collectstatic", interactive=False, verbosity=0)
    say(f"building {accounts} accounts")
    run = world.build(accounts=accounts)
    port = free_port()
    took: dict[str, list[float]] = {}
    pages = pages_of(run)
    with process("gunicorn", "--config", "python:config.web_server", "--bind", f"127.0.0.1:{port}",
                 "--log-level", "error"):  # fmt: skip
        wait_for(port)
        # Each process reads its templates once.
        for _ in range(4):
            for url, session in pages.values():
                get(port, url, session)
        before = ended(run)
        doorbell.ring("default", times=settings.WORKERS)
        with process_of(settings.BASE_DIR / "manage.py", "cluster", "--workers", "2"):
            say(f"{viewers} people look for {seconds} s while a cluster works")
            until = time.monotonic() + seconds
            people = [
                threading.Thread(target=look, args=(port, pages, number, until, took))
                for number in range(viewers)
            ]
            for person in people:
                person.start()
            for person in people:
                person.join()
            worked = ended(run) - before
    return {
        "accounts": accounts,
        "steps": Step.objects.count(),
        "steps_ended_meanwhile": worked,
        "counting_took_ms": RunProgress.objects.get(run=run).took_ms,
        "load_average": os.getloadavg()[0],
        "pages": {name: percentiles(times) for name, times in sorted(took.items())},
    }


def pages_of(run: CloseRun) -> dict[str, tuple[str, str]]:
    """What people look at: by name the address, and whose session it is."""
    staff = User.objects.create_superuser("page@example.com", "x")
    account = Account.objects.order_by("pk")[6]
    member = Member.objects.create(account=account, user=User.objects.create_user("m@example.com"))
    ann, customer = session_of(staff), session_of(member.user)
    of_run = f"/runs/{run.pk}/"
    return {
        "run": (of_run, ann),
        "run, blocked steps": (f"{of_run}steps/?kind=INVOICE&state=BLOCKED", ann),
        "run, steps of a reason": (f"{of_run}steps/?kind=INVOICE&because=no+price+for+item+7", ann),
        "run, what had changed": (f"{of_run}changes/", ann),
        "run, as JSON": (f"/api{of_run}", ann),
        "runs": ("/runs/", ann),
        "metrics": ("/metrics", ann),
        "readyz": ("/readyz", ann),
        "account, for support": (f"/admin/accounts/account/{account.pk}/change/", ann),
        "account, for its customer": (f"/accounts/{account.pk}/", customer),
        "invoices, for a customer": (f"/accounts/{account.pk}/invoices/", customer),
    }


def session_of(user: User) -> str:
    """A signed-in browser's cookie."""
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.save()
    assert session.session_key is not None
    return session.session_key


def look(
    port: int,
    pages: dict[str, tuple[str, str]],
    number: int,
    until: float,
    took: dict[str, list[float]],
) -> None:
    """One person: the run's page again and again, and in between another page."""
    others = [name for name in pages if name != "run"]
    place = number
    while time.monotonic() < until:
        for name in ("run", others[place % len(others)]):
            took.setdefault(name, []).append(get(port, *pages[name]))
        place += 1
        time.sleep(LOOK_EVERY_SECONDS)


def get(port: int, url: str, session: str) -> float:
    """How many milliseconds the answer took, to its last byte."""
    began = time.monotonic()
    asked = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    asked.request("GET", url, headers={"Cookie": f"sessionid={session}", "Connection": "close"})
    answer = asked.getresponse()
    length = int(answer.headers["Content-Length"])
    answer.read(length)
    milliseconds = 1000 * (time.monotonic() - began)
    asked.close()
    assert answer.status == 200, f"{url}: {answer.status}"
    return milliseconds


def percentiles(times: list[float]) -> dict[str, float]:
    """In milliseconds; the 95th percentile is the time that one in twenty exceeds."""
    ordered = sorted(times)

    def at(share: float) -> float:
        return round(ordered[min(int(share * len(ordered)), len(ordered) - 1)], 1)

    return {"looks": len(ordered), "p50_ms": at(0.5), "p95_ms": at(0.95), "max_ms": at(1.0)}


def ended(run: CloseRun) -> int:
    """How many steps of the run have ended."""
    return Step.objects.filter(run=run).exclude(state__in=Step.OPEN).count()


@contextmanager
def process(*module: str) -> Iterator[None]:
    """A module of Python's, as a process that ends with the block."""
    with process_of("-m", *module):
        yield


@contextmanager
def process_of(*command: object) -> Iterator[None]:
    """A Python process that ends with the block."""
    running = subprocess.Popen(
        [sys.executable, *map(str, command)], cwd=settings.BASE_DIR, stdout=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        running.terminate()
        running.wait()


def wait_for(port: int) -> None:
    """Until the site answers."""
    for _ in range(300):
        try:
            asked = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            asked.request("GET", "/healthz")
            if asked.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError("the site does not answer")


def say(words: str) -> None:
    """On standard error: standard output is one JSON document."""
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    wanted = [int(each) for each in sys.argv[1:]]
    print(json.dumps(measure(accounts=wanted[0], seconds=wanted[1], viewers=wanted[2]), indent=2))
    connection.close()
