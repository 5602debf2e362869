"""
`python -m tests.speed.pay`: how long a customer who pays waits for the page, whatever the provider does.

In a scratch database of its own, with the site as it is documented and a provider that takes a minute for each
call. So many customers press Pay at once, while others open their overview and somebody asks whether the site is
up. A cluster is not part of it: who takes the payments on is another process. See docs/performance.md.
"""

import argparse
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import django

PASSWORD = "a password of the bench"


def main() -> None:
    parser = argparse.ArgumentParser(prog="speed of paying", description=__doc__)
    parser.add_argument("--customers", type=int, default=50, help="who press Pay at once (50)")
    parser.add_argument("--latency-ms", type=float, default=60_000, help="of the provider (60,000)")
    parser.add_argument("--on-scratch", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.base")
    django.setup()
    if options.on_scratch:
        measure(options.customers)
        return
    from config.bench import scratch

    with scratch.place(latency_ms=options.latency_ms, rate=None) as environment:
        # The benchmark's own debug settings would serve every page with its queries kept.
        environment |= {"DEBUG": "", "ALLOWED_HOSTS": "127.0.0.1", "SECRET_KEY": "x" * 50}
        command = [sys.executable, "-m", "tests.speed.pay", *sys.argv[1:], "--on-scratch"]
        subprocess.run(command, env=environment, check=True)


def measure(customers: int) -> None:
    """Print the waits of all kinds of request, in milliseconds."""
    import requests

    from accounts.models import Account, Member, User
    from billing.models import PaymentAttempt
    from tests.config.test_web_server import signed_in
    from tests.speed.charge import build

    build(customers)
    members = [
        Member.objects.create(
            account=account,
            user=User.objects.create_user(f"{account.pk}@bench.example", PASSWORD),
            role=Member.Role.OWNER,
        )
        for account in Account.objects.order_by("pk")[:customers]
    ]
    jars = [signed_in(member) for member in members]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        bind = f"127.0.0.1:{free.getsockname()[1]}"
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "--config",
        "python:config.web_server",
        "--bind",
        bind,
    ]
    site = subprocess.Popen([*command, "--log-level", "warning"])
    url = f"http://{bind}"
    try:
        _wait_until(lambda: requests.get(f"{url}/healthz", timeout=5).status_code == 200)
        forms = [
            _form(url, member.account_id, jar) for member, jar in zip(members, jars, strict=True)
        ]
        waits: dict[str, list[float]] = {"Pay": [], "another page": [], "/healthz": []}
        over = threading.Event()

        def timed(what: str, ask: Callable[[], requests.Response], status: int) -> None:
            began = time.monotonic()
            answer = ask()
            waits[what].append(1000 * (time.monotonic() - began))
            assert answer.status_code == status, (what, answer.status_code, answer.text[:500])

        def look() -> None:
            member, jar = members[0], jars[0]
            page = f"{url}/accounts/{member.account_id}/"
            while not over.is_set():
                timed("/healthz", lambda: requests.get(f"{url}/healthz", timeout=90), 200)
                timed("another page", lambda: requests.get(page, cookies=jar, timeout=90), 200)
                time.sleep(0.05)

        looker = threading.Thread(target=look)
        looker.start()
        with ThreadPoolExecutor(customers) as pool:
            for member, jar, form in zip(members, jars, forms, strict=True):
                pay = f"{url}/accounts/{member.account_id}/pay/"
                data = {**form, "csrfmiddlewaretoken": jar["csrftoken"]}
                pool.submit(
                    timed,
                    "Pay",
                    lambda pay=pay, data=data, jar=jar: requests.post(  # type: ignore[misc]
                        pay, data, cookies=jar, allow_redirects=False, timeout=90
                    ),
                    302,
                )
        over.set()
        looker.join()
    finally:
        site.terminate()
        site.wait(timeout=60)
    reserved = PaymentAttempt.objects.filter(state="RESERVED").count()
    assert (len(waits["Pay"]), reserved) == (customers, customers), (len(waits["Pay"]), reserved)
    print(f"{customers} customers press Pay at once; {os.cpu_count()} cores")
    for what, taken in waits.items():
        p95 = statistics.quantiles(taken, n=20)[-1] if len(taken) > 1 else taken[0]
        print(
            f"{what:>14}: {p95:6.0f} ms for 95 of 100, {max(taken):6.0f} ms at the most, {len(taken)}"
        )
    print(json.dumps({what: [round(each) for each in taken] for what, taken in waits.items()}))


def _form(url: str, account_id: int, jar: dict[str, str]) -> dict[str, str]:
    """The form as the page shows it."""
    import requests

    page = requests.get(f"{url}/accounts/{account_id}/pay/", cookies=jar, timeout=90).text
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
