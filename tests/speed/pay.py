"""
`python -m tests.speed.pay`: how long a customer who pays waits for the page, whatever the provider does.

In a scratch database of its own, with the site as it is documented and a provider that takes a minute for each
call. So many customers open their page, press Pay at once, and follow their payment, whose page looks again every
two seconds. Meanwhile others open their overview, and somebody asks whether the site is up. A cluster is not part of
it: who takes the payments on is another process. See docs/performance.md.
"""

import argparse
import http.client
import itertools
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.parse
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import django

PASSWORD = "a password of the bench"
LOOKS_AGAIN_AFTER_SECONDS = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="speed of paying", description=__doc__)
    parser.add_argument("--customers", type=int, default=50, help="who press Pay at once (50)")
    parser.add_argument("--latency-ms", type=float, default=60_000, help="of the provider (60,000)")
    parser.add_argument(
        "--seconds", type=float, default=10, help="how long they follow their payments (10)"
    )
    parser.add_argument("--on-scratch", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.base")
    django.setup()
    if options.on_scratch:
        measure(options.customers, seconds=options.seconds)
        return
    from config.bench import scratch

    with scratch.place(latency_ms=options.latency_ms, rate=None) as environment:
        # The benchmark's own debug settings would serve every page with its queries kept.
        environment |= {"DEBUG": "", "ALLOWED_HOSTS": "127.0.0.1", "SECRET_KEY": "x" * 50}
        command = [sys.executable, "-m", "tests.speed.pay", *sys.argv[1:], "--on-scratch"]
        subprocess.run(command, env=environment, check=True)


class Customer:
    """A browser on one kept connection, as small as can be: it has the cores that the site has."""

    def __init__(self, port: int, account_id: int, jar: Mapping[str, str]) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=90)
        self._cookies = "; ".join(f"{name}={value}" for name, value in jar.items())
        self._token = jar["csrftoken"]
        self.overview = f"/accounts/{account_id}/"
        self.pay = f"{self.overview}pay/"

    def get(self, path: str) -> str:
        """The page."""
        status, _, page = self._ask("GET", path)
        assert status == 200, (path, status, page[:500])
        return page

    def post(self, path: str, form: Mapping[str, str]) -> str:
        """Where it leads to."""
        data = urllib.parse.urlencode({**form, "csrfmiddlewaretoken": self._token})
        status, leads_to, page = self._ask("POST", path, data)
        assert status == 302, (path, status, page[:500])
        return leads_to

    def _ask(self, method: str, path: str, data: str | None = None) -> tuple[int, str, str]:
        headers = {"Cookie": self._cookies, "Host": "127.0.0.1"}
        if data is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        try:
            self._connection.request(method, path, data, headers)
        except OSError:
            self._connection.close()
            raise
        answer = self._connection.getresponse()
        return answer.status, answer.headers.get("Location", ""), answer.read().decode()


class Waits:
    """How long each request took, in milliseconds, by what it asked for."""

    def __init__(self) -> None:
        self.of: dict[str, list[float]] = defaultdict(list)

    def timed(self, what: str, ask: Callable[[], str]) -> str:
        """What it said; its wait is noted."""
        began = time.monotonic()
        said = ask()
        self.of[what].append(1000 * (time.monotonic() - began))
        return said


def measure(count: int, *, seconds: float) -> None:
    """Print the waits of all kinds of request, in milliseconds."""
    from accounts.models import Account, Member, User
    from billing.models import PaymentAttempt
    from tests.config.test_web_server import signed_in
    from tests.speed.charge import build

    build(count)
    members = [
        Member.objects.create(
            account=account,
            user=User.objects.create_user(f"{account.pk}@bench.example", PASSWORD),
            role=Member.Role.OWNER,
        )
        for account in Account.objects.order_by("pk")[:count]
    ]
    jars = [signed_in(member) for member in members]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    set_up = ("--config", "python:config.web_server", "--log-level", "warning")
    command = [sys.executable, "-m", "gunicorn", *set_up, "--bind", f"127.0.0.1:{port}"]
    site = subprocess.Popen(command)
    try:
        waits = _pay_at_once(
            [
                Customer(port, member.account_id, jar)
                for member, jar in zip(members, jars, strict=True)
            ],
            Customer(port, members[0].account_id, jars[0]),
            seconds=seconds,
        )
    finally:
        site.terminate()
        site.wait(timeout=60)
    reserved = PaymentAttempt.objects.filter(state="RESERVED").count()
    assert (len(waits.of["Pay"]), reserved) == (count, count), (len(waits.of["Pay"]), reserved)
    print(f"{count} customers press Pay at once; {os.cpu_count()} cores")
    for what, taken in waits.of.items():
        p95 = statistics.quantiles(taken, n=20)[-1] if len(taken) > 1 else taken[0]
        print(
            f"{what:>18}: {p95:6.0f} ms for 95 of 100, {max(taken):6.0f} ms at the most, {len(taken)}"
        )
    print(json.dumps({what: [round(each) for each in taken] for what, taken in waits.of.items()}))


def _pay_at_once(customers: list[Customer], another: Customer, *, seconds: float) -> Waits:
    """Who pays does so at the same instant; `another` opens pages until all is over."""
    waits, over = Waits(), threading.Event()
    all_ready = threading.Barrier(len(customers) + 1)
    _wait_until(lambda: "ok" in another.get("/healthz"))

    def pays(customer: Customer, begins_after: float) -> None:
        form = _form(customer.get(customer.pay))
        all_ready.wait()
        payment = waits.timed("Pay", lambda: customer.post(customer.pay, form))
        # Who was served first looks again first: as browsers do, they are spread from then on.
        while not over.wait(begins_after or LOOKS_AGAIN_AFTER_SECONDS):
            waits.timed("the payment's page", lambda: customer.get(payment))
            begins_after = 0

    def looks() -> None:
        for path, what in itertools.cycle(
            [("/healthz", "/healthz"), (another.overview, "another page")]
        ):
            if over.wait(0.02):
                return
            waits.timed(what, lambda path=path: another.get(path))  # type: ignore[misc]

    with ThreadPoolExecutor(len(customers) + 1) as pool:
        paid = [pool.submit(pays, customer, 0.01) for customer in customers]
        all_ready.wait()
        looked = pool.submit(looks)
        time.sleep(seconds)
        over.set()
    for each in (*paid, looked):
        each.result()
    return waits


def _form(page: str) -> dict[str, str]:
    """The form as the page shows it."""
    found = dict(re.findall(r'name="(due_minor|seen)"\s+value="([^"]*)"', page))
    assert found.get("due_minor"), page[:2000]
    return found


def _wait_until(is_there: Callable[[], bool]) -> None:
    for _ in range(100):
        try:
            if is_there():
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise TimeoutError("the site does not answer")


if __name__ == "__main__":
    main()
