"""One account that cannot be billed stops no other, of any entity: at the schedule, in the close, in the sweep."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from django.core.exceptions import ValidationError
from django.db import connection

from accounts.models import Account
from billing import unbillable
from billing.close import rehearsal, runs
from billing.close.health import sweeper
from billing.invoices import credits
from billing.models import CloseRun, CreditGrant, Invoice, UntalliedUsage, UsageSummary
from billing.payments import refunds
from billing.payments.refunds import driving
from billing.reports import progress
from billing.usage import billing_periods, tallying
from billing.views.staff import runs as staff_runs
from billing.workers import heartbeats
from tests.billing.builders import account_using
from tests.billing.test_tallying import usage_batch
from tests.closing import assert_books_hold, finish, retry, start_close, step_of
from tests.factories import (
    AS_OF,
    OCTOBER,
    AccountFactory,
    EntityFactory,
    MemberFactory,
    UserFactory,
)

pytestmark = pytest.mark.django_db(transaction=True)

USED_AT = datetime(2018, 10, 5, tzinfo=UTC)
NO_ZONES = ["Mars/Olympus", "", "../UTC", "Europe", "europe/nowhere", "Europe/Budapest "]
NO_CURRENCIES = ["QQQ"]


@pytest.fixture
def worlds():
    """An account of two entities each, good; and one among those of the first that is poisoned by the test."""
    first, second = EntityFactory(), EntityFactory(slug="other", invoice_prefix="OT")
    good = [AccountFactory(entity=first), AccountFactory(entity=second)]
    bad = AccountFactory(entity=first)
    return good, bad


def close_all():
    started = runs.start_due(as_of=AS_OF)
    for run in started:
        finish(run)
    return started


@pytest.mark.parametrize(
    "poison",
    [*({"time_zone": zone} for zone in NO_ZONES), *({"currency": code} for code in NO_CURRENCIES)],
    ids=str,
)
def test_is_listed_and_blocked_while_all_others_are_closed(worlds, poison, client, settings):
    good, bad = worlds
    was = {name: getattr(bad, name) for name in poison}
    Account.objects.filter(pk=bad.pk).update(**poison)
    usage_batch(*((account, USED_AT) for account in [good[0], bad, good[1]]))

    started = close_all()

    assert {run.state for run in started} == {CloseRun.State.FINISHED}
    assert len(started) == 2
    assert sorted(Invoice.objects.values_list("account", flat=True)) == [a.pk for a in good]
    step = step_of(bad, "INVOICE")
    assert step.state == step.State.BLOCKED
    assert "does not exist: correct it in the admin" in step.because
    assert [account.pk for account, _ in unbillable.accounts()] == [bad.pk]
    sweeper.sweep(as_of=AS_OF)
    assert not heartbeats.last_sweep()[0].failed
    said = rehearsal.rehearse(entity=bad.entity, month=OCTOBER, as_of=AS_OF)
    assert [each["account"] for each in said["blocked"]] == [bad.external_id]
    member = MemberFactory(account=bad)
    client.force_login(member.user)
    for page in ("", "invoices/", "cards/"):
        assert client.get(f"/accounts/{bad.pk}/{page}").status_code == 200, page
    client.force_login(UserFactory(is_staff=True, is_superuser=True))
    assert bad.external_id in client.get("/runs/").content.decode()
    for page in (f"/runs/{started[0].pk}/", f"/admin/accounts/account/{bad.pk}/change/",
                 "/admin/accounts/account/", "/admin/billing/untalliedusage/", "/metrics"):  # fmt: skip
        assert client.get(page).status_code == 200, page

    Account.objects.filter(pk=bad.pk).update(**was)
    tallying.tally(as_of=AS_OF)
    retry(step)
    finish(CloseRun.objects.get(entity=bad.entity))

    assert Invoice.objects.filter(account=bad, total_minor=50).count() == 1
    assert not UntalliedUsage.objects.exists()
    assert_books_hold()


def test_says_how_many_more_there_are_than_are_listed(client, monkeypatch):
    monkeypatch.setattr(staff_runs, "UNBILLABLE_SHOWN", 2)
    for _ in range(5):
        AccountFactory()
    Account.objects.update(time_zone="Mars/Olympus")
    client.force_login(UserFactory(is_staff=True, is_superuser=True))

    page = client.get("/runs/").content.decode()

    assert page.count("does not exist: correct it") == 2
    assert "And 3 more." in page


def test_a_language_that_we_have_no_texts_in_is_answered_in_english(worlds):
    _good, bad = worlds
    Account.objects.filter(pk=bad.pk).update(language="xx")
    usage_batch((bad, USED_AT))

    close_all()

    assert step_of(bad, "EMAIL").state == "DONE"


def test_an_account_whose_usage_cannot_be_added_up_stops_no_other(worlds, caplog):
    good, bad = worlds
    # The sum has more digits than a summary keeps.
    much = {"quantity": Decimal(9) * 10**20}
    usage_batch((good[0], USED_AT), (bad, USED_AT, much), (bad, USED_AT, much), (good[1], USED_AT))

    assert tallying.tally(as_of=AS_OF) == 1

    assert sorted(UsageSummary.objects.values_list("account", flat=True)) == [a.pk for a in good]
    left = UntalliedUsage.objects.get()
    assert (left.account, left.again_at) == (bad, AS_OF + tallying.TRY_AGAIN_AFTER)
    assert "overflow" in left.because
    assert "could not be added up" in caplog.text
    # Tried again within the hour, and not before.
    tallying.tally(as_of=AS_OF)
    assert UntalliedUsage.objects.get().again_at == left.again_at
    tallying.tally(as_of=left.again_at)
    assert UntalliedUsage.objects.get().again_at == left.again_at + tallying.TRY_AGAIN_AFTER


def test_an_account_whose_month_cannot_be_opened_stops_no_other(worlds, monkeypatch, caplog):
    good, bad = worlds
    real = billing_periods.open_periods

    def open_periods(*, month, account_ids):
        if bad.pk in account_ids:
            raise ArithmeticError("a month without an end")
        return real(month=month, account_ids=account_ids)

    monkeypatch.setattr(billing_periods, "open_periods", open_periods)
    usage_batch(*((account, USED_AT) for account in [*good, bad]))

    tallying.tally(as_of=AS_OF)

    assert sorted(UsageSummary.objects.values_list("account", flat=True)) == [a.pk for a in good]
    assert UntalliedUsage.objects.get().account == bad
    assert "a month without an end" in caplog.text


class TestTheSweep:
    def test_expires_the_credit_of_all_but_the_poisoned(self, worlds):
        good, bad = worlds
        grants = [
            CreditGrant.objects.create(
                account=account,
                kind=CreditGrant.Kind.PROMOTIONAL,
                currency="QQQ" if account == bad else "EUR",
                amount_minor=100,
                remaining_minor=100,
                expires_at=AS_OF - timedelta(days=1),
                reason="welcome",
            )
            for account in [bad, *good]
        ]

        with pytest.raises(ValueError, match="QQQ"):
            credits.expire_due_credits(as_of=AS_OF)

        for grant in grants:
            grant.refresh_from_db()
        assert [grant.expired_minor for grant in grants] == [0, 100, 100]

    def test_counts_all_runs_but_the_one_that_raises(self, worlds, monkeypatch):
        for account in worlds[0]:
            account_using("1.00", entity=account.entity)
        first, second = runs.start_due(as_of=AS_OF)
        counted = []

        def refresh(run, *, as_of):
            if run == first:
                raise ArithmeticError
            counted.append(run)

        monkeypatch.setattr(progress, "refresh", refresh)

        with pytest.raises(ArithmeticError):
            progress.refresh_running(as_of=AS_OF)
        assert counted == [second]

    def test_drives_all_refunds_but_the_one_that_raises(self, monkeypatch):
        driven = []

        def drive(refund, *, as_of):
            driven.append(refund)
            if refund == "first":
                raise ArithmeticError

        class Due(str):
            __slots__ = ()
            gateway = "sandbox"

        monkeypatch.setattr(
            driving.throttle, "let_begin", lambda *_, **__: [Due("first"), Due("second")]
        )
        monkeypatch.setattr(driving.throttle, "shut", lambda _: {})
        monkeypatch.setattr(driving.guard, "watch", lambda _: {})
        monkeypatch.setattr(driving, "_claim", lambda some, **_: some)
        monkeypatch.setattr(driving, "drive", drive)

        with pytest.raises(ArithmeticError):
            refunds.drive_due(as_of=AS_OF)
        assert driven == ["first", "second"]


class TestIsRefused:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            *(("time_zone", zone) for zone in NO_ZONES if zone),
            *(("currency", code) for code in [*NO_CURRENCIES, "eur"]),
            ("language", "xx"),
        ],
    )
    def test_by_the_model(self, field, value):
        account = AccountFactory.build(entity=EntityFactory(), **{field: value})

        with pytest.raises(ValidationError) as refused:
            account.full_clean()

        assert list(refused.value.message_dict) == [field]

    def test_by_the_admin_which_shows_what_stands_there(self, client):
        account = AccountFactory()
        Account.objects.update(time_zone="Mars/Olympus", currency="QQQ")
        client.force_login(UserFactory(is_staff=True, is_superuser=True))
        page = f"/admin/accounts/account/{account.pk}/change/"

        shown = client.get(page).content.decode()
        form = {
            "name": "Acme", "email": "", "language": "en", "state": "ACTIVE", "time_zone": "Mars/Olympus",
            "currency": "EUR", "members-TOTAL_FORMS": "0", "members-INITIAL_FORMS": "0",
        }  # fmt: skip
        refused = client.post(page, form).content.decode()
        client.post(page, {**form, "time_zone": "Europe/Budapest"})

        assert '<option value="Mars/Olympus" selected>Mars/Olympus (does not exist)' in shown
        assert "Mars/Olympus is not one of the available choices" in refused
        account.refresh_from_db()
        assert (account.time_zone, account.currency) == ("Europe/Budapest", "EUR")


def test_a_month_that_only_late_usage_needs_is_opened_for_all_but_the_poisoned(worlds):
    good, bad = worlds
    usage_batch((good[0], USED_AT))
    tallying.tally(as_of=AS_OF)
    Account.objects.filter(pk=bad.pk).update(time_zone="Mars/Olympus")
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM billing_billingperiod")
        assert cursor.fetchone() == (1,)

    run = start_close(date(2018, 11, 1), as_of=datetime(2018, 12, 2, tzinfo=UTC))

    assert run.steps.filter(account=bad, kind="INVOICE").exists()
    assert good[0].periods.count() == 2
