"""At a phone's width nothing with a figure lies off the screen, on any customer's page and any page of runs."""

from decimal import Decimal

import pytest

from accounts import people
from billing.close import pipeline
from billing.close.engine import runner
from billing.workers import halting, heartbeats
from notifications import lanes
from tests.billing.browser import needs_a_browser, off_screen
from tests.billing.builders import bill, grant, pay_by_hand
from tests.billing.test_invoicing import NOVEMBER, using
from tests.billing.test_views import attempt_of, member_of, staff, start_run, text
from tests.factories import (
    AccountFactory,
    CardFactory,
    PriceFactory,
    ProductFactory,
    SummaryFactory,
    account_using,
)

LONG = "Data transfer out of eu-central-1 to the internet, first ten terabytes"


def a_customers_pages():
    """An account for which every table has a row, with the longest figures that are likely."""
    account = AccountFactory(
        name="The Very Long-Named Telecommunications Company of Budapest",
        currency="IDR",
        language="hu",
        time_zone="America/Argentina/ComodRivadavia",
    )
    CardFactory(account=account)
    product = ProductFactory(code="transfer", name=LONG)
    PriceFactory(product=product, unit="gigabyte-months", currency="IDR", unit_price=Decimal("1234.000123456789"), free_quantity=Decimal("12345.678"))  # fmt: skip
    SummaryFactory(account=account, product=product, unit="gigabyte-months", unit_price=None, item=LONG, quantity=Decimal("9876543.123456"))  # fmt: skip
    grant(account, 123_456_700)
    [invoice] = bill(account)
    pay_by_hand(account, 99_123_456_700, method="SEPA instant transfer REF-2018-000012345678")
    using(account, "9876543210.00", month=NOVEMBER)
    bill(account, month=NOVEMBER)
    SummaryFactory(account=account, product=product, unit="gigabyte-months", unit_price=Decimal("0.000000123456"), item=LONG, quantity=Decimal("9876543.123456"))  # fmt: skip
    asked = attempt_of(account, state="REQUIRES_ACTION", amount_minor=500_000_000_000)
    client = member_of(account)
    for_staff = staff(is_superuser=True).get(f"/admin/accounts/account/{account.pk}/change/")
    people.add_contact(account_id=account.pk, email=f"{LONG.replace(' ', '.')[:50]}2018@example.com", by="ann")  # fmt: skip
    return {
        f"customer {page}": text(client.get(f"/accounts/{account.pk}/{page}"))
        for page in (
            "",
            "pay/",
            "invoices/",
            f"invoices/{invoice.pk}/",
            "cards/",
            "settings/",
            f"payments/{asked.pk}/",
        )
    } | {"staff account": text(for_staff)}


def pages_of_runs():
    """A run in the middle, of which everything can be said."""
    account_using("1234567890.00", currency="IDR", card="sandbox_declined")
    account_using("12.34")
    SummaryFactory(account=AccountFactory(name=LONG), unit_price=None)
    client = staff(is_superuser=True)
    asked = client.post(
        "/runs/start/",
        {
            "entity": AccountFactory().entity_id,
            "month": "2018-10",
            "when_balance_changed": "CHARGE_DUE_NOW",
        },
    )
    run = start_run()
    runner.work_once(pipeline.BY_KIND["INVOICE"], as_of=run.started_at)
    heartbeats.beat(queues=["default", "charge"], workers=3, is_first=True)
    lanes.grant("sandbox", wanted=1)
    halting.order(because="a release", by="ann@example.com")
    pages = {
        f"staff {url}": text(client.get(url))
        for url in (
            "/runs/",
            f"/runs/{run.pk}/",
            f"/runs/{run.pk}/steps/",
            f"/runs/{run.pk}/changes/",
        )
    }
    return pages | {"staff before a close": text(asked)}


@needs_a_browser
@pytest.mark.django_db
def test_nothing_with_a_figure_is_off_the_screen_of_a_phone(tmp_path):
    pages = a_customers_pages() | pages_of_runs()

    assert off_screen(pages, tmp_path) == {}
