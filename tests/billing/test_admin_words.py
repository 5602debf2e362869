"""Every list and every record of the admin reads as the pages do: no raw JSON, codes, idle zeros or bare ids."""

import re
from decimal import Decimal
from html.parser import HTMLParser

import pytest
from django.contrib import admin
from django.db import transaction
from django.db.models import Model

from accounts import pauses, people
from accounts.models import Account, BillingEntity, Hold
from billing.admin import in_words
from billing.close import runs
from billing.gateways import DisputeStatus
from billing.models import (
    BankStatement,
    FollowUp,
    GatewayGuard,
    IncomingTransfer,
    PaymentAttempt,
    Reconciliation,
    ReconciliationBreak,
    RepeatedTransfer,
    Restore,
    UntalliedUsage,
    UsageBatch,
    WaitingLimit,
    WaitingOwner,
)
from billing.payments import disputes
from notifications import lanes
from tests.billing.builders import bill, grant, pay_by_hand
from tests.billing.dispute_builders import seen_of
from tests.billing.test_admin import message_of, staff, text
from tests.billing.test_invoicing import NOVEMBER, using
from tests.billing.test_refunds import refund
from tests.closing import finish
from tests.factories import (
    AS_OF,
    OCTOBER,
    MemberFactory,
    PriceFactory,
    SummaryFactory,
    account_using,
)

pytestmark = pytest.mark.django_db(transaction=True)
OURS = ("accounts", "billing", "notifications")


class Words(HTMLParser):
    """What of a page is read: no scripts, no choices of a form, no addresses."""

    UNREAD = ("script", "style", "option", "textarea", "title")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.unread = 0
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.unread += tag in self.UNREAD

    def handle_endtag(self, tag):
        self.unread -= tag in self.UNREAD

    def handle_data(self, data):
        if not self.unread and data.strip():
            self.words.append(" ".join(data.split()))


UNREADABLE = {
    "raw JSON": r"""[{\[]['"]|['"]: |^\{\}$|^null$|^None$""",
    "a number with idle zeros": r"\d\.\d{3,}0+(?!\d)|0E-\d",
    "more decimals than the currency has": r"€-?[\d,]+\.\d{3,}|(?<!CN)¥-?[\d,]+\.\d",
    "minor units": r"^[+-]?\d{3,} (to|Receivable|Revenue|Cash)",
    "an id": r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}|\bobject \(|<\w+: ",
    "a code": r"\b[A-Z]{3,}_[A-Z_]+\b",
    "an unformatted instant": r"\d{4}-\d\d-\d\dT\d\d:\d\d",
}


def everything() -> None:
    """A record of every kind that the admin shows."""
    entity = BillingEntity.objects.first() or account_using("1.00").entity
    # Everything that happens to an account whose card is good, and to one whose card is not.
    account = account_using("548.661", entity=entity)
    MemberFactory(account=account)
    with transaction.atomic():
        people.invite(
            account_id=account.pk, email="new@example.com", role="VIEWER", by="ann", as_of=AS_OF
        )
    people.add_contact(account_id=account.pk, email="books@example.com", by="ann")
    SummaryFactory(account=account, unit_price=None, item="b", quantity=Decimal("1234.5"))
    PriceFactory(free_quantity=Decimal("10.5"), monthly_fee=Decimal("2.5"))
    grant(account, 5000)
    declined = account_using("83.17", card="sandbox_declined", entity=entity)
    account_using("900", currency="JPY", entity=entity)
    BillingEntity.objects.update(retry_days=[3])
    run, _ = runs.start(
        entity=BillingEntity.objects.get(pk=entity.pk),
        month=OCTOBER,
        started_by="ann@example.com",
        as_of=AS_OF,
    )
    finish(run)
    payment = account.payments.get()
    refund(payment, 500)
    disputes.apply_provider_state(
        "sandbox", seen_of(payment, DisputeStatus.LOST, amount_minor=1000), as_of=AS_OF
    )
    pay_by_hand(declined, 10000)
    using(declined, "12.34", month=NOVEMBER)
    bill(declined, month=NOVEMBER)
    Hold.objects.create(account=account, reason="MANUAL", placed_at=AS_OF)
    with transaction.atomic():
        pauses.pause(account_id=account.pk, reason="MANUAL", because="they asked", as_of=AS_OF)
    message_of(account, amounts={"due_minor": 1234, "currency": "EUR"}, kind="PAYMENT_FAILED")
    _of_banks_and_providers(account)
    _of_what_went_wrong(account)
    lanes.grant("sandbox", wanted=1)


def _of_what_went_wrong(account: Account) -> None:
    Restore.objects.create(known_until=AS_OF, noticed_at=AS_OF, because="the server is another")
    batch = UsageBatch.objects.get(name="usage.csv")
    UntalliedUsage.objects.create(
        account=account,
        batch=batch,
        because="its time zone does not exist",
        noted_at=AS_OF,
        again_at=AS_OF,
    )
    FollowUp.objects.create(account=account, look_at=AS_OF, because="waits for its due date")
    WaitingLimit.objects.create(kind="charge_in_review", seconds=7200)
    WaitingOwner.objects.create(
        kind="charge_in_review", ref="1", owner="ann@example.com", taken_at=AS_OF
    )


def _of_banks_and_providers(account: Account) -> None:
    UsageBatch.objects.create(source="csv", name="usage.csv", sha256="0" * 64)
    transfer = IncomingTransfer.objects.create(
        bank_ref="B1", received_on=AS_OF.date(), currency="EUR", amount_minor=100
    )
    statement = BankStatement.objects.create(name="november.csv", sha256="0" * 64)
    RepeatedTransfer.objects.create(
        statement=statement,
        file="november.csv",
        line=2,
        transfer=transfer,
        counted_apart_as=IncomingTransfer.objects.create(
            bank_ref="B2", received_on=AS_OF.date(), currency="EUR", amount_minor=100
        ),
    )
    GatewayGuard.objects.get_or_create(
        gateway="sandbox",
        defaults={"database_identity": "x", "server_started_at": AS_OF, "checked_at": AS_OF},
    )
    one = Reconciliation.objects.create(
        gateway="sandbox",
        state="FINISHED",
        started_by="nightly",
        as_of=AS_OF,
        finished_at=AS_OF,
        counts={"listed": 17, "booked": 1, "foreign": 2},
        payouts=[
            {
                "payout": "po_1",
                "currency": "EUR",
                "settled_currency": "EUR",
                "provider_minor": 1200,
                "ledger_minor": 1200,
                "fee_minor": 10,
                "net_minor": 1190,
                "other_net_minor": 0,
                "exchange_rate": "",
            }
        ],
    )
    ReconciliationBreak.objects.create(
        kind="NOT_BOOKED",
        gateway="sandbox",
        provider_ref="pi_1",
        object_at=AS_OF,
        account=account,
        words="taken, not booked",
        currency="EUR",
        amount_minor=1234,
        reconciliation=one,
        found_at=AS_OF,
    )


def unreadable(page: str) -> list[tuple[str, str]]:
    return [
        (what, words)
        for words in Words(page).words
        for what, pattern in UNREADABLE.items()
        if re.search(pattern, words)
    ]


def test_every_list_and_every_record_reads_as_the_pages_do():
    everything()
    client = staff(is_superuser=True)
    found = {}
    for model in admin.site._registry:
        if model._meta.app_label not in OURS:
            continue
        assert model.objects.exists(), f"there is no {model.__name__} to be looked at"
        for url in _pages(model):
            response = client.get(url)
            assert response.status_code == 200, url
            if bad := unreadable(text(response)):
                found[url] = bad

    assert not found, "\n".join(f"{url}: {bad}" for url, bad in found.items())


def _pages(model: type[Model]) -> list[str]:
    place = f"/admin/{model._meta.app_label}/{model._meta.model_name}/"
    # Those that differ: the first and the last of each.
    ends = {str(model.objects.order_by("pk").first().pk), str(model.objects.order_by("pk").last().pk)}  # fmt: skip
    if model is PaymentAttempt:
        ends = {str(pk) for pk in model.objects.values_list("pk", flat=True)}
    return [place, *(f"{place}{pk}/change/" for pk in sorted(ends))]


def test_a_price_that_can_be_edited_reads_well_in_its_form_too():
    price = PriceFactory(unit_price=Decimal("0.0116"), free_quantity=Decimal(100))

    page = text(staff(is_superuser=True).get(f"/admin/billing/price/{price.pk}/change/"))

    assert 'value="0.0116"' in page
    assert 'value="100"' in page


class TestFacts:
    @pytest.mark.parametrize(
        ("stored", "said"),
        [
            ({"is_paused": True, "is_held": False}, "Is paused: yes<br>Is held: no"),
            ({"hold": None, "because": ""}, "Hold: –<br>Because: –"),
            ({"due_minor": 1234, "currency": "EUR"}, "Due: €12.34"),
            (
                {"as_of": "2018-11-02T09:00:00+00:00"},
                "As of: 2 November 2018, 09:00 (UTC)",
            ),
            # Nobody knows in which zone it was, or it is no instant at all.
            ({"paused_at": "2018-11-02T09:00:00"}, "Paused at: 2018-11-02T09:00:00"),
            ({"paused_at": "not known"}, "Paused at: not known"),
        ],
    )
    def test_are_lines_of_words(self, stored, said):
        assert in_words.facts(stored) == said


def test_an_amount_without_a_currency_is_not_shown_as_if_it_had_one():
    with pytest.raises(TypeError, match="has an amount, and no currency"):
        in_words._amount(WaitingLimit(kind="charge_in_review", seconds=7200), 100)
