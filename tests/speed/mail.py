"""
`python -m tests.speed.mail --accounts 4000`: that many invoices are mailed, from one process, to a mail
server in another. One JSON document on the standard output; `--profile` shows where the time goes.
"""

import argparse
import cProfile
import itertools
import json
import os
import pstats
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import django

LINES = 5


def main() -> None:
    options = _options()
    os.environ["DJANGO_SETTINGS_MODULE"] = "config.settings.test"
    django.setup()
    from tests.crashes.sweep import databases

    with databases.family() as name, _sink(options.latency_ms) as sink:
        databases.use(name)
        _populate(options.accounts)
        said = {
            "invoices": _timed(_invoices(), sink, options),
            "receipts": _timed(_receipts(), sink, options),
        }
    print(json.dumps({"accounts": options.accounts, "cores": os.cpu_count(), **said}, indent=1))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mail", description=__doc__)
    parser.add_argument("--accounts", type=int, default=4000)
    parser.add_argument(
        "--latency-ms", type=float, default=0.0, help="of each answer of the server"
    )
    parser.add_argument("--profile", action="store_true")
    parser.add_argument(
        "--ahead", action="store_true", help="of whatever else runs on this machine; root, Linux"
    )
    return parser.parse_args()


@contextmanager
def _sink(latency_ms: float) -> Iterator[subprocess.Popen[str]]:
    from django.conf import settings

    process = subprocess.Popen(
        [sys.executable, "manage.py", "mail_sink", "--port=0", f"--latency-ms={latency_ms}"],
        stdout=subprocess.PIPE,
        text=True,
    )
    host, port = process.stdout.readline().split()[-1].split(":")
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = host, int(port)
    yield process
    process.terminate()
    print(process.stdout.read().strip(), file=sys.stderr)
    process.wait()


def _populate(count: int) -> None:
    """Accounts in two languages and several zones, each with five lines of usage and a card."""
    from accounts.models import Account, PaymentMethod
    from billing.models import BillingPeriod, UsageSummary
    from config.locale_catalogs import compile_catalogs
    from tests.factories import OCTOBER, EntityFactory, PeriodFactory, ProductFactory

    compile_catalogs()
    entity = EntityFactory(bank_details="Example Bank\nDE00 1234")
    products = [ProductFactory(code=f"p{n}", name=f"Product {n}") for n in range(LINES)]
    zones = ("UTC", "Europe/Budapest", "America/New_York", "Asia/Tokyo")
    accounts = Account.objects.bulk_create(
        Account(
            entity=entity,
            external_id=f"speed-{number}",
            name=f"Customer {number} & Sons",
            currency="EUR",
            email=f"books{number}@example.com",
            language=("en", "hu")[number % 3 == 0],
            time_zone=zones[number % len(zones)],
        )
        for number in range(count)
    )
    cut = [PeriodFactory.build(account=account) for account in accounts]
    periods = BillingPeriod.objects.bulk_create(cut)
    UsageSummary.objects.bulk_create(
        UsageSummary(
            account=period.account,
            period=period,
            product=product,
            kind="USAGE",
            item="small",
            unit="hour",
            unit_price=Decimal("0.10"),
            quantity=Decimal(100 + period.account_id % 50),
            events=1,
            first_at=period.starts_at,
            last_at=period.ends_at,
        )
        for period in periods
        for product in products
    )
    PaymentMethod.objects.bulk_create(
        PaymentMethod(
            account=account,
            gateway="sandbox",
            token="sandbox_visa",
            brand="Visa",
            last_four="4242",
            expiry_month=12,
            expiry_year=2035,
            is_default=True,
        )
        for account in accounts
    )
    from tests.closing import start_close, work_once

    start_close(OCTOBER)
    while work_once("INVOICE"):
        pass
    _analyze()


def _analyze() -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")


def _invoices() -> Callable[[], int]:
    from tests.closing import work_once

    return lambda: work_once("EMAIL")


def _receipts() -> Callable[[], int]:
    """One for each account, written before the clock runs: the charge writes it, in its own time."""
    from accounts.models import Account
    from notifications import dispatcher, outbox
    from notifications.formats import Reader
    from tests.factories import AS_OF

    def letter(account: Account) -> outbox.Letter:
        reader = Reader.of(account)
        amount = reader.money(5000 + account.pk % 50, account.currency)
        context = {
            "amount": amount,
            "method": "Visa ···· 4242",
            "received_at": reader.instant(AS_OF),
            "paid": [{"number": f"MC-{account.pk:06}", "amount": amount}],
            "surplus": "",
            "credit": "",
            "has_due": False,
            "balance": reader.money(0, account.currency),
            "as_of": reader.instant(AS_OF),
            "pay_link": f"https://billing.example.com/accounts/{account.pk}/",
        }
        return outbox.Letter(
            account=account,
            kind="RECEIPT",
            fact=f"payment:{account.pk}",
            context=context,
            amounts={"due_minor": 0, "currency": account.currency},
            as_of=AS_OF,
        )

    accounts = Account.objects.select_related("entity").iterator(chunk_size=500)
    while batch := [letter(account) for account in itertools.islice(accounts, 500)]:
        outbox.enqueue_all(batch)

    # The first time, which warms up, a claim and no more; then all there is.
    said = iter([False, *[True] * 20])
    warmed_up: list[int] = []

    def deliver() -> int:
        until = (lambda: False) if warmed_up else (lambda: next(said))
        warmed_up.append(1)
        return dispatcher.run("email", clock=lambda: AS_OF, until=until)

    return deliver


def _timed(
    work: Callable[[], int], sink: subprocess.Popen[str], options: argparse.Namespace
) -> dict[str, Any]:
    profiler = cProfile.Profile(time.process_time)  # whatever else runs
    work()  # imports, templates, a connection
    postgres = _backend()
    if options.ahead:
        for pid in (os.getpid(), sink.pid, postgres):
            # Sessions share the machine evenly, whatever the niceness within them.
            Path(f"/proc/{pid}/autogroup").write_text("-15")
    began, cpu = time.monotonic(), _cpu()
    before = _cpu_of(sink.pid), _cpu_of(postgres)
    if options.profile:
        profiler.enable()
    done = 0
    while worked := work():
        done += worked
    profiler.disable()
    seconds, cpu = time.monotonic() - began, _cpu() - cpu
    of_sink, of_postgres = (
        now - then for now, then in zip((_cpu_of(sink.pid), _cpu_of(postgres)), before, strict=True)
    )
    if options.profile:
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(45)
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("cumtime").print_stats(70)
    return {
        "sent": done,
        "seconds": round(seconds, 2),
        "per_second": round(done / seconds, 1),
        "cpu_ms_each": round(1000 * cpu / max(done, 1), 3),
        "cpu_ms_each_of_postgres": round(1000 * of_postgres / max(done, 1), 3),
        "cpu_ms_each_of_the_sink": round(1000 * of_sink / max(done, 1), 3),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def _backend() -> int:
    """The process of the embedded server that works for us."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return cursor.fetchone()[0]


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
