"""What finance and support see of reconciliations, breaks and paused gateways, and what they may do."""

import csv
import io

import pytest
from django.test import Client

from billing import reconciliation
from billing.models import Decision, GatewayGuard, Reconciliation, ReconciliationBreak
from billing.payments import guard
from tests.billing.builders import collect, owing
from tests.billing.stripe_builders import owing as owing_at_stripe
from tests.billing.test_admin import staff, text
from tests.billing.test_reconciliation import ATTEMPT, object_of, reconciled
from tests.closing import start_close
from tests.factories import AS_OF, AccountFactory

pytestmark = pytest.mark.django_db(transaction=True)

RUNS = "/admin/billing/reconciliation/"
BREAKS = "/admin/billing/reconciliationbreak/"
GUARDS = "/admin/billing/gatewayguard/"


@pytest.fixture
def finance() -> Client:
    return staff("Finance", email="ann@example.com")


@pytest.fixture
def found(sandbox) -> ReconciliationBreak:
    """A break on an account: money taken in a currency that it does not have."""
    account = AccountFactory(currency="USD", external_id="=cmd")
    object_of(account.external_id, sandbox, attempt=ATTEMPT, submit=True)
    reconciled()
    return ReconciliationBreak.objects.get()


def act(client: Client, action: str, *breaks: ReconciliationBreak, **form: str):
    chosen = [found.pk for found in breaks]
    return client.post(BREAKS, {"action": action, "_selected_action": chosen, **form}, follow=True)


class TestReconciliations:
    def test_none_yet_is_said(self, finance):
        assert "Nothing was reconciled yet." in text(finance.get(RUNS))

    def test_run_now_starts_one_and_shows_how_far_it_is(self, finance):
        page = text(finance.post(f"{RUNS}run/", follow=True))

        one = Reconciliation.objects.get()
        assert (one.gateway, one.started_by) == ("sandbox", "ann@example.com")
        assert "0 so far" in page
        assert 'http-equiv="refresh"' in page

    def test_support_may_look_and_not_run(self):
        support = staff("Support")

        assert "Run now" not in text(support.get(RUNS))
        assert support.post(f"{RUNS}run/").status_code == 403
        assert not Reconciliation.objects.exists()

    def test_says_what_was_found_and_paid_out(self, finance, stripe, found):
        collect(owing_at_stripe(stripe, "10.00"))
        payout = stripe.pay_out()
        one = reconciled("stripe")

        page = text(finance.get(f"{RUNS}{one.pk}/change/"))

        (row,) = [line for line in page.split("<tr>") if payout in line]
        assert row.count("<td>€10.00</td>") == 2
        assert "<td>€9.41</td>" in row
        assert "1 so far" not in page
        assert "?state__exact=OPEN" in text(finance.get(RUNS))

    def test_what_stopped_one_is_shown(self, finance, provider):
        provider.before("objects", ConnectionResetError("no line"))
        one = reconciliation.start(gateway="sandbox", started_by="test", as_of=AS_OF)
        with pytest.raises(ConnectionResetError):
            reconciliation.work(one, as_of=AS_OF)

        assert "Running: ConnectionResetError: no line" in text(finance.get(RUNS))

    def test_says_when_payouts_were_not_compared(self, finance):
        one = reconciled()
        Reconciliation.objects.filter(pk=one.pk).update(error="Payouts are not compared: no")

        assert "Finished. Payouts are not compared: no" in text(finance.get(RUNS))

    def test_says_when_nothing_was_paid_out(self, finance):
        one = reconciled()

        assert "Nothing was paid out" in text(finance.get(f"{RUNS}{one.pk}/change/"))


class TestBreaks:
    def test_lead_to_where_they_are_settled(self, finance, found):
        page = text(finance.get(f"{BREAKS}{found.pk}/change/"))

        assert f'href="{BREAKS}?q={found.provider_ref}"' in page
        assert found.provider_ref in text(finance.get(f"{BREAKS}?q={found.provider_ref}"))
        assert "Take over or accept" not in text(
            staff("Support").get(f"{BREAKS}{found.pk}/change/")
        )

    def test_are_taken_over(self, finance, found):
        act(finance, "take_over", found)

        found.refresh_from_db()
        assert (found.state, found.owner) == ("OPEN", "ann@example.com")

    def test_are_accepted_with_a_reason_only(self, finance, found):
        asked = text(act(finance, "accept", found))
        refused = text(act(finance, "accept", found, confirmed="yes", reason=""))
        act(finance, "accept", found, confirmed="yes", reason="A test charge")

        assert "no money is moved" in asked
        assert "This field is required." in refused
        found.refresh_from_db()
        assert (found.state, found.note) == ("ACCEPTED", "A test charge")
        decision = Decision.objects.get(act="ACCEPT_BREAK")
        assert (decision.account, decision.actor) == (found.account, "ann@example.com")

    def test_that_have_ended_are_left_as_they_are(self, finance, found):
        reconciliation.accept(break_id=found.pk, owner="bob", reason="ours", as_of=AS_OF)

        taken = text(act(finance, "take_over", found))
        accepted = text(act(finance, "accept", found, confirmed="yes", reason="mine"))

        assert "is accepted." in taken
        assert "is accepted." in accepted
        found.refresh_from_db()
        assert (found.owner, found.note) == ("bob", "ours")

    def test_support_may_look_and_not_settle(self, found):
        support = staff("Support")

        page = text(support.get(BREAKS))
        act(support, "accept", found, confirmed="yes", reason="mine")

        assert found.provider_ref in page
        assert "Take over" not in page
        found.refresh_from_db()
        assert found.state == "OPEN"

    def test_are_downloaded_without_formulas(self, finance, found):
        answer = act(finance, "download", found)

        (line,) = csv.DictReader(io.StringIO(answer.content.decode()))
        assert line["account"] == "'=cmd"
        assert (line["amount"], line["currency"], line["kind"]) == ("12.34", "EUR", "NOT_BOOKED")

    def test_and_what_is_paused_meet_staff_first(self, finance, found):
        collect(owing())
        GatewayGuard.objects.update(database_identity="another")
        guard.watch_all()

        page = text(finance.get("/runs/"))

        assert "1 difference with a provider" in page
        assert "Charging through sandbox is paused" in page
        assert f'see the <a href="{RUNS}">' in page
        run = start_close()
        assert "Charging through sandbox is paused" in text(finance.get(f"/runs/{run.pk}/"))
        assert "Paused" in text(finance.get(GUARDS))
        assert "is paused since" in text(finance.get(RUNS))
