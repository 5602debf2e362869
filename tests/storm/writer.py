"""
Customers and operators, without end: `python -m tests.storm.writer [customer]`.

Whatever fails is tried again with the same token or the same file, as a person would, until it is
done or known to be done; only then it is written into the journal.
"""

import os
import random
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from http.cookiejar import CookieJar
from pathlib import Path

import django

PAUSE_SECONDS = 0.1
MONTH_EVERY_SECONDS = 12
TRIES = 60


def main() -> None:
    django.setup()
    from tests.storm.world import Journal

    writer = Writer(Journal())
    if sys.argv[1:] == ["customer"]:
        writer.pay_on()
    writer.write_on()


class Writer:
    def __init__(self, journal) -> None:
        from django.conf import settings

        self.journal = journal
        self.folder: Path = settings.STORM_FOLDER
        self.rng = random.Random(f"{settings.STORM_SEED} writer {os.getpid()}")
        self.site = os.environ["STORM_SITE"]

    def write_on(self) -> None:
        acts: list[tuple[Callable[[], None], int]] = [
            (self.pay_by_bank, 4),
            (self.pay_now, 4),
            (self.grant_credit, 3),
            (self.pay_back, 3),
            (self.change_card, 3),
            (self.import_late_usage, 2),
        ]
        closed_at = 0.0
        while True:
            if time.monotonic() - closed_at > MONTH_EVERY_SECONDS:
                self.until_done(self.close_next_month)
                closed_at = time.monotonic()
            [act] = self.rng.choices([act for act, _ in acts], [weight for _, weight in acts])
            act()
            time.sleep(self.rng.uniform(0, 2 * PAUSE_SECONDS))

    def pay_on(self) -> None:
        """A customer who does nothing else."""
        while True:
            self.pay_on_the_site()
            time.sleep(self.rng.uniform(0, 2 * PAUSE_SECONDS))

    def until_done(self, act: Callable[[], None]) -> None:
        """The database may be away, and may have done it all the same."""
        from django.db import Error, connection

        for _ in range(TRIES):
            try:
                return act()
            except (Error, OSError) as error:
                print(f"writer: {act.__name__}: {error!r}", file=sys.stderr)
                connection.close()
                time.sleep(0.5)
        raise SystemExit("the writer has given up")

    # --- acts

    def account(self):
        from accounts.models import Account

        return self.rng.choice(list(Account.objects.order_by("pk")))

    def close_next_month(self) -> None:
        from django.utils import timezone

        from accounts.models import Account, BillingEntity
        from billing.close import runs
        from billing.models import CloseRun
        from tests.storm.world import month_of

        number = CloseRun.objects.count()
        if CloseRun.objects.filter(state=CloseRun.State.RUNNING).count() > 1:
            return
        month = month_of(number)
        events = {
            f"{month:%Y%m}-{account}": (account, 500 + index * 37 + number)
            for index, account in enumerate(
                Account.objects.order_by("pk").values_list("external_id", flat=True)
            )
            if index % 13
        }
        self._import(f"month-{month:%Y-%m}", events, month)
        runs.start(
            entity=BillingEntity.objects.get(),
            month=month,
            started_by="storm",
            as_of=timezone.now(),
        )
        self.journal.acknowledged("close", month=f"{month:%Y-%m-%d}")

    def import_late_usage(self) -> None:
        from tests.storm.world import month_of, new_token

        name = f"late-{new_token().hex}"
        minor = self.rng.randint(100, 900)

        def act() -> None:
            from billing.models import CloseRun

            facts[:] = facts or [
                self.account().external_id,
                month_of(max(CloseRun.objects.count() - 1, 0)),
            ]
            account, month = facts
            self._import(name, {name: (account, minor)}, month)

        # Chosen once: a file that is sent again is the same file.
        facts: list = []
        self.until_done(act)

    def _import(self, name: str, events: dict, month) -> None:
        from django.utils import timezone

        from billing.usage import imports
        from tests.storm.world import HEADER, usage_row

        path = self.folder / f"{name}.csv"
        rows = [usage_row(event, *facts, month.replace(day=9)) for event, facts in events.items()]
        path.write_text("\n".join([HEADER, *rows]) + "\n")
        imports.import_usage(
            path=path,
            form=imports.FORMATS["csv"],
            as_of=timezone.now(),
            rejects_path=path.with_suffix(".rejects.csv"),
        )
        self.journal.acknowledged("usage", events=events)

    def pay_by_bank(self) -> None:
        from django.utils import timezone

        from billing import ledger
        from billing.payments import booking
        from tests.storm.world import new_token

        token = new_token()
        facts: list = []

        def act() -> None:
            if not facts:
                account = self.account()
                due = ledger.standing(account.pk, as_of=timezone.now()).due_minor
                # All of it, part of it, or by mistake too much.
                facts.extend([account, max(1, round(due * self.rng.choice([1, 1, 0.5, 1.2])))])
            account, minor = facts
            with suppress(booking.AlreadyRecorded):
                booking.record_payment(
                    account_id=account.pk,
                    token=token,
                    amount_minor=minor,
                    currency=account.currency,
                    method="Bank transfer",
                    reason="storm",
                    recorded_by="ann@example.com",
                    as_of=timezone.now(),
                )
            self.journal.acknowledged("payment", token=str(token), minor=minor, account=account.pk)

        self.until_done(act)

    def grant_credit(self) -> None:
        from django.utils import timezone

        from billing.invoices import credits
        from tests.storm.world import new_token

        token = new_token()
        minor = self.rng.randint(50, 400)
        facts: list = []

        def act() -> None:
            facts[:] = facts or [self.account()]
            [account] = facts
            with suppress(credits.AlreadyGranted):
                credits.grant_credit(
                    account_id=account.pk,
                    token=token,
                    amount_minor=minor,
                    currency=account.currency,
                    reason="storm",
                    granted_by="ann@example.com",
                    as_of=timezone.now(),
                )
            self.journal.acknowledged("credit", token=str(token), minor=minor, account=account.pk)

        self.until_done(act)

    def pay_back(self) -> None:
        """A colleague pays a part of a card payment back, or all that is left of it."""
        from django.utils import timezone

        from billing.models import Payment
        from billing.payments import refunds
        from tests.storm.world import new_token

        token = new_token()
        facts: list = []

        def act() -> None:
            if not facts:
                lately = Payment.objects.filter(gateway__in=["sandbox", "stripe"]).order_by("-pk")
                payments = list(lately[:40])
                payment = self.rng.choice(payments) if payments else None
                left_minor = refunds.refundable_minor(payment) if payment else 0
                if left_minor < 1:
                    return
                facts.extend([payment, self.rng.choice([left_minor, (left_minor + 1) // 2])])
            payment, minor = facts
            try:
                refunds.refund(
                    payment_id=payment.pk,
                    token=token,
                    amount_minor=minor,
                    reason="storm",
                    actor="ann@example.com",
                    as_of=timezone.now(),
                )
            except refunds.AlreadyRequested:
                pass
            except refunds.CannotRefund:
                # Another is on its way, or nothing may be sent just now: nothing was promised.
                return
            self.journal.acknowledged("refund", token=str(token), minor=minor)

        self.until_done(act)

    def pay_now(self) -> None:
        from django.db import Error, connection
        from django.utils import timezone

        from billing.models import PaymentAttempt
        from billing.payments import charges

        try:
            wanted = charges.Request(self.account().pk, PaymentAttempt.Kind.ON_SESSION)
            charges.begin([wanted], as_of=timezone.now())
        except Error:
            # Nobody was told anything: the customer looks again later.
            connection.close()

    def change_card(self) -> None:
        """Remove the card, and mostly store another."""
        from django.utils import timezone

        from accounts.models import PaymentMethod
        from billing.payments import methods
        from tests.storm.world import TOKENS

        facts: list = []

        def act() -> None:
            facts[:] = facts or [self._holder_of_a_sandbox_card(), self.rng.choice(TOKENS)]
            account, token = facts
            for method in PaymentMethod.objects.filter(account=account, state="ACTIVE"):
                methods.remove_card(
                    account_id=account.pk,
                    method_id=method.pk,
                    actor="customer",
                    as_of=timezone.now(),
                )
            if token:
                from tests.storm.world import card

                looks = card(account, token)
                methods.add_card(
                    account_id=account.pk,
                    gateway="sandbox",
                    token=token,
                    brand=looks.brand,
                    last_four=looks.last_four,
                    expiry_month=looks.expiry_month,
                    expiry_year=looks.expiry_year,
                    actor="customer",
                    as_of=timezone.now(),
                )

        self.until_done(act)

    def _holder_of_a_sandbox_card(self):
        from accounts.models import Account

        accounts = Account.objects.exclude(payment_methods__gateway="stripe").order_by("pk")
        return self.rng.choice(list(accounts))

    def pay_on_the_site(self) -> None:
        """As a browser does: the page, then its form, with what it showed."""
        from django.db import Error, connection

        from tests.storm.notes import note

        try:
            browser, account = self._signed_in()
            url = f"{self.site}/accounts/{account}/pay/"
            page = browser.open(url, timeout=20).read().decode()
            fields = {
                name: _value(page, name) for name in ("csrfmiddlewaretoken", "due_minor", "seen")
            }
            if fields["due_minor"] in (None, "0"):
                return
            form = urllib.parse.urlencode({k: v or "" for k, v in fields.items()}).encode()
            browser.open(url, data=form, timeout=60).read()
            note("payments asked for on the site")
        except (OSError, Error) as error:
            # A killed worker of the site: the customer looks again later.
            note("requests the site did not answer")
            print(f"writer: site: {error!r}", file=sys.stderr)
            connection.close()

    def _member_who_owes(self):
        from django.utils import timezone

        from accounts.models import Member
        from billing import ledger

        members = list(Member.objects.select_related("user").order_by("pk"))
        standings = ledger.standings([m.account_id for m in members], as_of=timezone.now())
        owing = [
            member
            for member in members
            if (standing := standings[member.account_id]).due_minor >= standing.least_minor
        ]
        return self.rng.choice(owing or members)

    def _signed_in(self):
        member = self._member_who_owes()
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        page = browser.open(f"{self.site}/sign-in/", timeout=20).read().decode()
        form = {
            "csrfmiddlewaretoken": _value(page, "csrfmiddlewaretoken"),
            "username": member.user.email,
            "password": "secret",
        }
        data = urllib.parse.urlencode(form).encode()
        browser.open(f"{self.site}/sign-in/", data=data, timeout=20).read()
        return browser, member.account_id


def _value(page: str, name: str) -> str | None:
    """The value of an input of the page."""
    found = re.search(rf'<input[^>]*name="{name}"[^>]*>', page)
    value = re.search(r'value="([^"]*)"', found.group()) if found else None
    return value.group(1) if value else None


if __name__ == "__main__":
    main()
