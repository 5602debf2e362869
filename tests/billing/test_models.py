"""Each constraint and trigger of the database, broken on purpose, by its name."""

import functools
import uuid
from datetime import date, timedelta
from decimal import Decimal

import pytest
from django.apps import apps
from django.db import IntegrityError, connection, models, transaction

from accounts import timeline
from accounts.models import BillingContact, ChargingPause, Hold, Invitation, TimelineEvent
from billing import decisions
from billing.models import (
    Allocation,
    BankStatement,
    BillingPeriod,
    ClaimMarker,
    CloseRun,
    Contribution,
    CreditGrant,
    Decision,
    Dispute,
    DunningCase,
    Executor,
    GatewayGuard,
    IncomingTransfer,
    Invoice,
    LeastAmount,
    LedgerAccount,
    LedgerEntry,
    LineItem,
    ListedObject,
    Payment,
    PaymentAttempt,
    PaymentReversal,
    Posting,
    Price,
    Product,
    ProviderEvent,
    ProviderRecord,
    Reconciliation,
    ReconciliationBreak,
    Refund,
    RejectedRow,
    RepeatedTransfer,
    Restore,
    Step,
    UntalliedUsage,
    UsageBatch,
    UsageEvent,
    UsageSummary,
    WaitingOwner,
)
from billing.payments import reversals
from tests.billing.builders import bill, grant, pay_by_hand
from tests.factories import (
    AS_OF,
    OCTOBER,
    AccountFactory,
    CardFactory,
    EntityFactory,
    MandateFactory,
    MemberFactory,
    PeriodFactory,
    PriceFactory,
    SummaryFactory,
    UserFactory,
    account_using,
    token,
)

pytestmark = pytest.mark.django_db

TESTED: set[str] = set()


def breaks(name: str):
    """Mark a test as the one that breaks this constraint; it does so by the act it returns."""

    def mark(test):
        TESTED.add(name)

        @functools.wraps(test)
        def broken(self, **of_case):
            act = test(self, **of_case)
            with pytest.raises(IntegrityError, match=name), transaction.atomic():
                act()

        return broken

    return mark


def again(row: models.Model, **changes: object):
    """Save a copy of a row that differs by this alone."""
    row.pk, row._state.adding = None, True
    for name, value in changes.items():
        setattr(row, name, value)
    return lambda: row.save(force_insert=True)


def changed(row: models.Model, **changes: object):
    return lambda: type(row).objects.filter(pk=row.pk).update(**changes)


def attempt(**facts: object) -> PaymentAttempt:
    account = facts.pop("account", None) or AccountFactory()
    card = account.payment_methods.first() or CardFactory(account=account)
    return PaymentAttempt(
        **{
            "account": account,
            "kind": "AUTO",
            "currency": "EUR",
            "amount_minor": 100,
            "payment_method": card,
            "gateway": "sandbox",
            **facts,
        }
    )


def event() -> ProviderEvent:
    return ProviderEvent.objects.create(
        gateway="sandbox", event_id="evt_1", is_live=False, received_at=AS_OF, next_try_at=AS_OF
    )


def reversed_payment(amount_minor: int) -> PaymentReversal:
    payment = pay_by_hand(AccountFactory(), 100)
    return reversals.reverse_payment(
        payment,
        account=payment.account,
        amount_minor=amount_minor,
        provider_ref="R1",
        reason="returned by the bank",
        as_of=AS_OF,
    )


def refund(payment: Payment, **facts: object) -> Refund:
    return Refund(
        **{
            "account": payment.account,
            "payment": payment,
            "gateway": "sandbox",
            "currency": "EUR",
            "amount_minor": 50,
            "credit_minor": 20,
            "cost_minor": 30,
            "token": uuid.uuid4(),
            "requested_at": AS_OF,
            **facts,
        }
    )


def dispute(**facts: object) -> Dispute:
    payment = pay_by_hand(AccountFactory(), 100)
    return Dispute(
        **{
            "account": payment.account,
            "payment": payment,
            "gateway": "sandbox",
            "provider_ref": "du_1",
            "currency": "EUR",
            "amount_minor": 100,
            "opened_at": AS_OF,
            **facts,
        }
    )


def pause(**facts: object) -> ChargingPause:
    return ChargingPause(**{"reason": "MANUAL", "because": "asked", "paused_at": AS_OF, **facts})


def incoming_transfer(**facts: object) -> IncomingTransfer:
    return IncomingTransfer(
        **{
            "bank_ref": "B1",
            "received_on": OCTOBER,
            "currency": "EUR",
            "amount_minor": 100,
            **facts,
        }
    )


def reconciliation() -> Reconciliation:
    return Reconciliation.objects.create(gateway="sandbox", started_by="test", as_of=AS_OF)


def reconciliation_break() -> ReconciliationBreak:
    return ReconciliationBreak.objects.create(
        kind="NOT_BOOKED",
        gateway="sandbox",
        provider_ref="sb_1",
        object_at=AS_OF,
        words="Taken",
        currency="EUR",
        amount_minor=1,
        reconciliation=reconciliation(),
        found_at=AS_OF,
    )


def run() -> CloseRun:
    return CloseRun.objects.create(
        entity=EntityFactory(), month=OCTOBER, started_by="test", started_at=AS_OF
    )


def dunning_case(**facts: object) -> DunningCase:
    tries_next = {"opened_at": AS_OF, "ends_at": AS_OF, "next_try_at": AS_OF}
    return DunningCase.objects.create(account=AccountFactory(), **{**tries_next, **facts})


def invoice() -> Invoice:
    return bill(account_using("12.34"))[0]


def entry() -> LedgerEntry:
    invoice()
    return LedgerEntry.objects.get()


class TestAccounts:
    @breaks("account_currency_is_an_iso_code")
    def test_an_accounts_currency_is_an_iso_code(self):
        return lambda: AccountFactory(currency="eu")

    @breaks("one_default_payment_method_per_account")
    def test_an_account_has_one_default_card(self):
        card = CardFactory()
        return lambda: CardFactory(account=card.account)

    @breaks("expiry_month_is_a_month")
    def test_a_card_expires_in_a_month(self):
        return lambda: CardFactory(expiry_month=13)

    @breaks("card_has_an_expiry_and_a_mandate_a_status")
    def test_a_card_has_an_expiry(self):
        return lambda: CardFactory(expiry_year=None)

    @breaks("card_has_an_expiry_and_a_mandate_a_status")
    def test_a_mandate_has_none(self):
        return lambda: MandateFactory(expiry_month=12, expiry_year=2035)

    @breaks("removed_payment_method_says_when")
    def test_a_removed_card_says_when(self):
        return lambda: CardFactory(state="REMOVED")

    @breaks("blocked_payment_method_says_when_and_is_no_default")
    def test_a_blocked_card_says_when(self):
        return lambda: CardFactory(state="BLOCKED", is_default=False)

    @breaks("blocked_payment_method_says_when_and_is_no_default")
    def test_a_blocked_card_is_no_default(self):
        return lambda: CardFactory(state="BLOCKED", blocked_at=AS_OF)

    @breaks("one_open_dunning_case_per_account")
    def test_an_account_has_one_open_dunning_case(self):
        return again(dunning_case())

    @breaks("dunning_case_retries_at_most_four_times")
    def test_a_dunning_case_has_no_fifth_retry(self):
        return lambda: dunning_case(retries_made=5)

    @breaks("closed_dunning_case_tries_no_more")
    def test_a_closed_dunning_case_tries_no_more(self):
        return lambda: dunning_case(closed_at=AS_OF)

    @breaks("one_open_hold_per_account_and_reason")
    def test_an_account_is_held_once_for_a_reason(self):
        hold = Hold.objects.create(account=AccountFactory(), reason="OVERDUE", placed_at=AS_OF)
        return again(hold)

    @breaks("one_role_per_account_and_user")
    def test_a_user_has_one_role_at_an_account(self):
        member = MemberFactory()
        return lambda: MemberFactory(account=member.account, user=member.user)


class TestPeople:
    @breaks("one_user_per_address_in_any_case")
    def test_an_address_is_one_users_in_any_case(self):
        UserFactory(email="ann@example.com")
        return lambda: UserFactory(email="Ann@example.com")

    @breaks("billing_contact_is_kept_once_per_account")
    def test_an_address_is_a_contact_once(self):
        account = AccountFactory()
        BillingContact.objects.create(account=account, email="tax@example.com")
        return BillingContact(account=account, email="TAX@example.com").save

    @breaks("one_open_invitation_per_account_and_address")
    def test_an_address_has_one_open_invitation(self):
        account = AccountFactory()
        invitation(account).save()
        return invitation(account, email="NEW@example.com", token_digest="b").save

    @breaks("invitation_ends_once")
    def test_an_invitation_is_accepted_or_taken_back(self):
        return invitation(AccountFactory(), accepted_at=AS_OF, revoked_at=AS_OF).save


def invitation(account, **facts):
    defaults = {"email": "new@example.com", "token_digest": "a", "invited_by": "ann"}
    return Invitation(account=account, expires_at=AS_OF, **(defaults | facts))


class TestLeastAmounts:
    @breaks("one_least_amount_per_currency_and_entity")
    def test_a_currency_has_one_for_every_entity(self):
        return LeastAmount(currency="EUR", amount_minor=70).save

    @breaks("least_amount_is_positive")
    def test_none_is_not_asked_for(self):
        return LeastAmount(currency="XTS", amount_minor=0).save


class TestWhatWaits:
    @breaks("one_owner_per_row_that_waits")
    def test_has_one_owner(self):
        owned = WaitingOwner(kind="charge_in_review", ref="1", owner="ann", taken_at=AS_OF)
        owned.save()
        return again(owned)


class TestPeriods:
    @breaks("one_period_per_account_and_month")
    def test_an_account_has_one_period_for_a_month(self):
        period = PeriodFactory()
        return again(period, starts_at=AS_OF, ends_at=AS_OF + timedelta(days=1))

    @breaks("period_ends_after_it_starts")
    def test_a_period_ends_after_it_starts(self):
        return lambda: PeriodFactory(starts_at=AS_OF, ends_at=AS_OF)

    @breaks("periods_of_an_account_never_overlap")
    def test_periods_never_overlap(self):
        period = PeriodFactory()
        return again(period, month=date(2018, 11, 1), starts_at=period.ends_at - timedelta(hours=1))

    def test_periods_of_two_accounts_may(self):
        PeriodFactory()
        PeriodFactory()

        assert BillingPeriod.objects.count() == 2


class TestCatalogue:
    @breaks("one_price_per_item_unit_currency_and_start")
    def test_a_price_starts_once(self):
        return again(PriceFactory())

    @breaks("prices_are_not_negative")
    def test_prices_are_not_negative(self):
        return lambda: PriceFactory(unit_price=-1)

    @breaks("price_currency_is_an_iso_code")
    def test_a_prices_currency_is_an_iso_code(self):
        return lambda: PriceFactory(currency="EU")


class TestUsage:
    @breaks("one_open_summary_per_key")
    def test_like_events_of_a_period_are_one_open_tally(self):
        return again(SummaryFactory(unit_price=None))

    @breaks("one_open_summary_per_key")
    def test_also_where_they_state_amounts(self):
        return again(SummaryFactory(unit_price=None, amount=1), amount=2)

    def test_a_billed_tally_makes_room_for_late_usage(self):
        summary = UsageSummary.objects.get(invoice=invoice())

        again(summary, invoice=None)()

        assert UsageSummary.objects.count() == 2


class TestInvoices:
    @breaks("one_invoice_per_account_and_period")
    def test_an_account_has_one_invoice_for_a_period(self):
        return again(invoice(), sequence=2, number="MC-2")

    @breaks("invoice_numbers_are_unique_per_entity")
    def test_a_number_is_given_once(self):
        issued = invoice()
        return again(issued, account=AccountFactory(), period=PeriodFactory(), number="other")

    @breaks("invoice_number_is_unique")
    def test_what_people_read_is_given_once_over_all_entities(self):
        issued = invoice()
        other = EntityFactory(slug="other", invoice_prefix="OT")
        return again(issued, account=AccountFactory(), period=PeriodFactory(), entity=other)

    @breaks("numbered_exactly_when_issued")
    def test_a_draft_has_no_number(self):
        return again(invoice(), account=AccountFactory(), period=PeriodFactory(), state="DRAFT")

    @breaks("line_positions_are_unique")
    def test_lines_have_an_order(self):
        account = account_using("1.00")
        draft = Invoice.objects.create(
            entity=account.entity, account=account, period=account.periods.get(), currency="EUR"
        )
        facts = {"quantity": 1, "amount_unrounded": 1, "amount_minor": 100, "position": 1}
        line = LineItem(
            invoice=draft,
            product=Product.objects.get(),
            starts_at=AS_OF,
            ends_at=AS_OF,
            **facts,
        )
        line.save()
        return again(line)

    @breaks("allocation_is_positive_or_takes_one_back")
    def test_an_allocation_is_positive(self):
        payment = pay_by_hand(AccountFactory(), 100)
        return Allocation(invoice=invoice(), payment=payment, amount_minor=0).save

    @breaks("allocation_is_positive_or_takes_one_back")
    def test_one_below_zero_takes_another_back(self):
        payment = pay_by_hand(AccountFactory(), 100)
        return Allocation(invoice=invoice(), payment=payment, amount_minor=-1).save

    @breaks("allocation_has_one_source")
    def test_an_allocation_has_one_source(self):
        account = AccountFactory()
        both = {"payment": pay_by_hand(account, 100), "grant": grant(account, 100)}
        return Allocation(invoice=invoice(), amount_minor=1, **both).save

    @breaks("grant_is_positive")
    def test_a_grant_is_positive(self):
        return CreditGrant(account=AccountFactory(), amount_minor=0, remaining_minor=0).save

    @breaks("grant_is_never_overspent")
    def test_a_grant_is_never_overspent(self):
        return changed(grant(AccountFactory(), 100), remaining_minor=-1)

    @breaks("grant_is_never_overspent")
    def test_a_grant_never_has_more_left_than_it_gave(self):
        return changed(grant(AccountFactory(), 100), expired_minor=1)


class TestLedger:
    @breaks("one_ledger_account_per_purpose")
    def test_a_purpose_has_one_ledger_account(self):
        entry()
        return again(LedgerAccount.objects.get(kind="REVENUE"))

    @breaks("ledger_account_is_customer_side_or_company_side")
    def test_a_receivable_is_somebodys(self):
        return LedgerAccount(kind="RECEIVABLE", currency="EUR", entity=EntityFactory()).save

    @breaks("ledger_account_is_customer_side_or_company_side")
    def test_revenue_is_the_companys(self):
        return LedgerAccount(kind="REVENUE", currency="EUR", account=AccountFactory()).save

    @breaks("one_entry_per_business_event")
    def test_an_event_is_booked_once(self):
        return again(entry())

    @breaks("running_balance_has_one_next_posting")
    def test_a_balance_has_one_next_posting(self):
        entry()
        return again(Posting.objects.get(version=1))

    @breaks("posting_is_not_zero")
    def test_a_posting_moves_something(self):
        entry()
        return again(Posting.objects.get(version=None), amount_minor=0)

    @breaks("running_balance_is_whole")
    def test_a_balance_has_its_version(self):
        entry()
        return again(Posting.objects.get(version=1), version=None)


class TestPayments:
    @breaks("payment_is_booked_once")
    def test_a_payment_is_booked_once(self):
        return again(pay_by_hand(AccountFactory(), 100))

    @breaks("payment_is_positive")
    def test_a_payment_is_positive(self):
        return again(pay_by_hand(AccountFactory(), 100), provider_ref="other", amount_minor=0)

    @breaks("reversal_is_booked_once")
    def test_a_return_is_booked_once(self):
        return again(reversed_payment(50))

    @breaks("reversal_is_the_sum_of_its_parts")
    def test_a_reversal_is_its_parts(self):
        return again(reversed_payment(50), provider_ref="other", owed_minor=1)

    @breaks("dispute_is_booked_once")
    def test_a_dispute_is_booked_once(self):
        dispute().save()
        return dispute().save

    @breaks("dispute_is_positive")
    def test_a_dispute_is_positive(self):
        return dispute(amount_minor=0).save

    @breaks("dispute_is_closed_exactly_when_decided")
    def test_a_decided_dispute_says_when(self):
        return dispute(state="WON").save

    @breaks("one_open_pause_per_account_and_reason")
    def test_charging_is_paused_once_for_a_reason(self):
        account = AccountFactory()
        pause(account=account).save()
        return pause(account=account).save

    @breaks("pause_is_resumed_by_somebody")
    def test_charging_is_resumed_by_somebody(self):
        return pause(account=AccountFactory(), resumed_at=AS_OF).save

    @breaks("refund_is_the_sum_of_its_parts")
    def test_a_refund_is_its_parts(self):
        return refund(pay_by_hand(AccountFactory(), 100), cost_minor=31).save

    @breaks("refund_loses_no_more_than_its_credit")
    @pytest.mark.parametrize(("state", "lost_minor"), [("FAILED", 71), ("REVIEW", 1)])
    def test_a_refund_loses_credit_that_it_had_and_only_at_its_end(self, state, lost_minor):
        return refund(pay_by_hand(AccountFactory(), 100), state=state, lost_minor=lost_minor).save

    @breaks("refund_at_the_provider_has_its_ref")
    def test_a_refund_that_was_sent_has_its_ref(self):
        return refund(pay_by_hand(AccountFactory(), 100), state="SUCCEEDED").save

    @breaks("provider_refund_is_booked_once")
    def test_a_refund_of_the_provider_is_booked_once(self):
        payment = pay_by_hand(AccountFactory(), 100)
        refund(payment, state="SUCCEEDED", provider_ref="re_1").save()
        return refund(payment, state="SUCCEEDED", provider_ref="re_1").save

    @breaks("one_refund_in_flight_per_payment")
    def test_one_refund_of_a_payment_is_on_its_way(self):
        payment = pay_by_hand(AccountFactory(), 100)
        refund(payment).save()
        refund(payment, token=None).save()
        return refund(payment, state="REVIEW").save

    @breaks("incoming_transfer_is_positive")
    def test_a_transfer_came_in(self):
        return incoming_transfer(amount_minor=0).save

    @breaks("transfer_is_booked_exactly_when_it_has_a_payment")
    def test_a_booked_transfer_has_its_payment(self):
        return incoming_transfer(state="BOOKED").save

    @breaks("transfer_is_booked_exactly_when_it_has_a_payment")
    def test_a_transfer_that_waits_has_none(self):
        return incoming_transfer(payment=pay_by_hand(AccountFactory(), 100)).save

    @breaks("transfer_is_stored_once")
    def test_a_transfer_is_known_by_all_that_the_bank_says(self):
        incoming_transfer().save()
        incoming_transfer(ordinal=2).save()
        incoming_transfer(payer="Another").save()
        return incoming_transfer().save

    @breaks("recorded_transfer_names_its_payment")
    def test_a_transfer_recorded_before_is_a_payment(self):
        return incoming_transfer(state="RECORDED").save

    @breaks("payment_recorded_before_is_one_transfer")
    def test_a_payment_recorded_before_is_one_transfer(self):
        payment = pay_by_hand(AccountFactory(), 100)
        incoming_transfer(state="RECORDED", resembles=payment).save()
        return incoming_transfer(state="RECORDED", resembles=payment, ordinal=2).save

    @breaks("rejected_row_is_kept_once")
    def test_a_rejected_row_is_kept_once(self):
        batch = UsageBatch.objects.create(name="2018-10.csv")
        RejectedRow.objects.create(batch=batch, number=2, field="quantity")
        return RejectedRow(batch=batch, number=2, field="quantity").save

    @breaks("rejected_row_comes_again_in_another_import")
    def test_a_rejected_row_comes_again_in_another_import(self):
        batch = UsageBatch.objects.create(name="2018-10.csv")
        return RejectedRow(batch=batch, number=2, field="quantity", again_in=batch).save

    @breaks("rejects_set_aside_say_who_and_why")
    def test_rejected_rows_set_aside_say_who_and_why(self):
        return UsageBatch(name="2018-10.csv", set_aside_at=AS_OF, set_aside_by="ann").save

    @breaks("billing_payment_attempt_id_key")
    def test_an_attempt_is_paid_once(self):
        paid = attempt()
        paid.save()
        first = pay_by_hand(paid.account, 100)
        again(first, provider_ref="a", attempt=paid)()
        return again(first, provider_ref="b", attempt=paid)

    @pytest.mark.parametrize("state", PaymentAttempt.IN_FLIGHT)
    @breaks("one_attempt_in_flight_per_account_and_currency")
    def test_an_account_has_one_attempt_in_flight(self, state):
        first = attempt(state=state)
        first.save()
        return attempt(account=first.account).save

    def test_any_number_may_have_ended(self):
        account = AccountFactory()
        for state in ("SUCCEEDED", "FAILED", "RELEASED", "RELEASED", "RESERVED"):
            attempt(account=account, state=state).save()

        assert account.attempts.count() == 5
        assert [a.is_in_flight for a in account.attempts.filter(state="RESERVED")] == [True]

    @breaks("provider_object_belongs_to_one_attempt")
    def test_a_providers_object_is_one_attempts(self):
        attempt(provider_ref="sb_1").save()
        return attempt(provider_ref="sb_1").save

    @breaks("attempt_is_positive")
    def test_an_attempt_is_positive(self):
        return attempt(amount_minor=0).save

    @breaks("provider_event_is_stored_once")
    def test_an_event_delivered_twice_is_stored_once(self):
        return again(event())

    @breaks("provider_event_waits_or_is_processed")
    def test_an_event_waits_or_is_processed(self):
        return changed(event(), outcome="APPLIED")

    @breaks("paused_gateway_says_why")
    def test_a_paused_gateway_says_why(self):
        guard = GatewayGuard(
            gateway="sandbox", server_started_at=AS_OF, checked_at=AS_OF, paused_at=AS_OF
        )
        return guard.save

    @breaks("one_reconciliation_at_a_time_per_gateway")
    def test_a_gateway_has_one_reconciliation_at_a_time(self):
        return again(reconciliation())

    @breaks("finished_reconciliation_says_when")
    def test_a_finished_reconciliation_says_when(self):
        return changed(reconciliation(), state="FINISHED")

    @breaks("object_is_listed_once")
    def test_an_object_is_listed_once(self):
        listed = reconciliation().objects_listed.create(
            provider_ref="sb_1", status="SUCCEEDED", made_at=AS_OF
        )
        return again(listed)

    @breaks("break_is_kept_once")
    def test_a_break_is_kept_once(self):
        return again(reconciliation_break())

    @breaks("ended_break_says_when")
    def test_an_ended_break_says_when(self):
        return changed(reconciliation_break(), state="RESOLVED")

    @breaks("accepted_break_says_why")
    def test_an_accepted_break_says_why(self):
        return changed(reconciliation_break(), state="ACCEPTED", resolved_at=AS_OF)

    @breaks("provider_lists_an_object_once")
    def test_a_provider_lists_an_object_once(self):
        record = ProviderRecord(
            gateway="sandbox", provider_ref="sb_1", amount_minor=1, status="SUCCEEDED"
        )
        record.save()
        return again(record)


class TestTheClose:
    @breaks("one_run_per_entity_and_month")
    def test_a_month_is_closed_by_one_run(self):
        return again(run())

    @breaks("run_month_is_a_first_day")
    def test_a_month_is_its_first_day(self):
        return again(run(), month=date(2018, 11, 2))

    @breaks("finished_run_has_its_report")
    def test_a_finished_run_has_its_report(self):
        return changed(run(), state="FINISHED")

    @breaks("one_step_per_run_account_and_kind")
    def test_a_step_is_there_once_also_the_runs_own(self):
        return again(Step.objects.create(run=run(), kind="REPORT"))

    @breaks("running_exactly_when_leased")
    def test_a_running_step_is_leased(self):
        return Step(run=run(), kind="REPORT", state="RUNNING").save

    @breaks("running_exactly_when_leased")
    def test_a_leased_step_is_running(self):
        return Step(run=run(), kind="REPORT", lease_token=token(), lease_until=AS_OF).save

    @breaks("ended_step_says_when")
    def test_an_ended_step_says_when(self):
        return Step(run=run(), kind="REPORT", state="DONE").save

    @breaks("step_priority_is_ten_at_most")
    def test_nobody_stands_in_line_for_ever(self):
        return Step(run=run(), kind="REPORT", priority=-11).save

    @breaks("one_executor_per_process_of_a_host")
    def test_a_cluster_is_known_once(self):
        return again(
            Executor.objects.create(
                host="one", pid=7, lanes="charge", workers=2, started_at=AS_OF, beat_at=AS_OF
            )
        )

    @breaks("one_contribution_per_run_kind_and_process")
    def test_a_process_counts_its_part_once(self):
        return again(
            Contribution.objects.create(
                run=run(), kind="CHARGE", host="one", pid=7, steps=3, first_at=AS_OF, last_at=AS_OF
            )
        )


def append_only() -> list[tuple[models.Model, str, object]]:
    account = account_using("12.34")
    bill(account)
    pay_by_hand(account, 1000)
    grant(account, 100)
    decisions.record(decisions.decision(act="TEST", did="DONE", because="?", account_id=account.pk))
    timeline.record(timeline.event(account_id=account.pk, kind="test", summary="?"))
    return [
        (LedgerEntry, "description", "other"),
        (Posting, "amount_minor", 1),
        (Decision, "because", "other"),
        (Payment, "amount_minor", 1),
        (Allocation, "amount_minor", 1),
        (TimelineEvent, "summary", "other"),
    ]


class TestAppendOnly:
    """Corrected by adding: the database refuses anything else."""

    def test_no_row_is_ever_changed(self):
        for model, column, value in append_only():
            assert model.objects.exists()
            with pytest.raises(IntegrityError, match="is append-only"), transaction.atomic():
                model.objects.update(**{column: value})

    def test_no_row_is_ever_deleted(self):
        for model, _, _ in append_only():
            rows = model.objects.all()
            with pytest.raises(IntegrityError, match="is append-only"), transaction.atomic():
                rows._raw_delete(rows.db)

    def test_every_such_table_has_its_trigger(self):
        with connection.cursor() as cursor:
            cursor.execute("SELECT tgname FROM pg_trigger WHERE NOT tgisinternal")
            triggers = {name for (name,) in cursor.fetchall()}

        assert triggers >= {
            "timeline_is_append_only",
            "usage_is_append_only",
            "ledgerentry_is_append_only",
            "posting_is_append_only",
            "decision_is_append_only",
            "payment_is_append_only",
            "paymentreversal_is_append_only",
            "allocation_is_append_only",
            "entry_sums_to_zero",
            "posting_keeps_its_entry_at_zero",
            "issued_invoice_is_final",
            "billed_summary_is_frozen",
            "attempt_moves_as_the_protocol_says",
        }


# Where usage is stored: tests/billing/test_imports.py and test_tallying.py; and in test_halting.py.
BROKEN_ELSEWHERE = {
    "usage_event_stored_once",
    "usage_price_is_stated_one_way",
    "one_halt_at_a_time",
    # tests/billing/test_closure.py
    "account_is_closed_once",
    "account_is_reopened_after_it_closed",
    "account_reopened_says_who_and_why",
    "closure_amounts_are_not_negative",
    # below
    "restore_dealt_with_says_by_whom",
    "usage_left_once",
}


def test_a_restore_that_was_dealt_with_says_by_whom():
    with pytest.raises(IntegrityError, match="restore_dealt_with_says_by_whom"):
        Restore.objects.create(
            known_until=AS_OF, noticed_at=AS_OF, because="restored", dealt_with_at=AS_OF
        )


def test_usage_of_an_account_is_left_once_for_each_batch():
    left = {
        "batch": UsageBatch.objects.create(name="a.csv"),
        "account": AccountFactory(),
        "because": "its zone does not exist",
        "noted_at": AS_OF,
        "again_at": AS_OF,
    }
    noted = UntalliedUsage.objects.create(**left)

    assert str(noted) == f"{left['account']}, {left['batch']}"
    with pytest.raises(IntegrityError, match="usage_left_once"):
        UntalliedUsage.objects.create(**left)


def test_every_constraint_of_these_models_is_broken_here():
    named = {
        constraint.name
        for label in ("accounts", "billing")
        for model in apps.get_app_config(label).get_models()
        for constraint in model._meta.constraints
    }

    assert named - BROKEN_ELSEWHERE <= TESTED


class TestWords:
    """What support reads in the admin."""

    def test_every_model_says_what_it_is(self):
        account = account_using("12.34", name="Acme", external_id="acme")
        (issued,) = bill(account)
        payment = pay_by_hand(account, 1000)
        goodwill = grant(account, 500)
        price = PriceFactory()
        step = Step(run=run(), account=account, kind="CHARGE")

        said = {
            str(row)
            for row in (
                issued,
                Invoice(account_name="Acme"),
                issued.lines.get(),
                issued.account.periods.get(),
                issued.entity.number_series,
                Allocation.objects.earliest("pk"),
                payment,
                goodwill,
                price,
                Price(
                    product=price.product,
                    item="large",
                    unit="hour",
                    currency="EUR",
                    unit_price=Decimal(2),
                ),
                step,
                Step(run=step.run, kind="REPORT"),
                Decision(act="CHARGE", did="SKIPPED", because="settled meanwhile"),
                UsageBatch(name="2018-10.csv"),
                UsageEvent(quantity=Decimal("1.500"), unit="hour", item="small"),
                UsageSummary(quantity=Decimal(10), unit="hour", item="large"),
                ProviderEvent(type="charge.succeeded", event_id="evt_1"),
                ProviderRecord(provider_ref="sb_1", status="SUCCEEDED"),
                GatewayGuard(gateway="sandbox"),
                ClaimMarker(step_ids=[1, 2], noted_at=AS_OF),
                incoming_transfer(),
                RepeatedTransfer(file="november.csv", line=2, transfer=incoming_transfer()),
                BankStatement(name="november.csv"),
                RejectedRow(batch=UsageBatch(name="2018-10.csv"), number=3, field="quantity"),
                Reconciliation(gateway="sandbox", as_of=AS_OF),
                ListedObject(provider_ref="sb_2", status="FOREIGN"),
                ReconciliationBreak(kind="NOT_BOOKED", provider_ref="sb_3"),
                PaymentAttempt(amount_minor=1234, currency="EUR"),
                Refund(amount_minor=500, currency="EUR"),
                DunningCase(next_try_at=AS_OF),
                DunningCase(ends_at=AS_OF),
                DunningCase(closed_at=AS_OF, closed_because="paid"),
                LedgerEntry.objects.earliest("pk"),
                Posting.objects.earliest("pk"),
            )
        }

        assert {
            "MC-000001",
            "draft for Acme",
            "Server · small",
            "2018-10",
            "MC: next 2",
            "€10.00 to MC-000001",
            "Bank transfer 2018-11-02",
            "Goodwill: Sorry for the outage",
            "Server : 0.01 EUR/hour",
            "Server large: 2 EUR/hour",
            "Charge Acme (acme)",
            "Report Month Close 2018-10",
            "Charge: Did nothing, settled meanwhile",
            "2018-10.csv",
            "1.5 hour small",
            "10 hour large",
            "charge.succeeded evt_1",
            "sb_1: SUCCEEDED",
            "sandbox: open",
            "2 steps since 09:00:00",
            "Bank transfer of 2018-10-01, B1",
            "november.csv, line 2: Bank transfer of 2018-10-01, B1",
            "november.csv",
            "2018-10.csv, row 3: quantity",
            "sandbox as of 2018-11-02 09:00",
            "sb_2: FOREIGN",
            "Money taken, not in our books: sb_3",
            "€12.34: reserved",
            "€5.00: reserved",
            "next try on 2018-11-02",
            "waits for the customer until 2018-11-02",
            "closed: paid",
            "Invoice issued: Invoice MC-000001",
            "€12.34, Receivable",
        } == said

    def test_a_run_knows_whether_it_is_finished(self):
        assert not run().is_finished

    @pytest.mark.parametrize("text", ["2018-13", "October", "2018", "2018-10-01"])
    def test_what_is_no_month_is_refused(self, text):
        with pytest.raises(ValueError):
            CloseRun.month_of(text)

    def test_a_month_is_read_as_its_first_day(self):
        assert CloseRun.month_of("2018-10") == OCTOBER
