"""
One way to break each promise and, where it can be done, no other.

Each is what a bug, a lost row or a hand in the database could have left behind: triggers are off
and, where a constraint would refuse it, that is dropped first.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Break:
    """What is done to our database, and to the sandbox provider's book; `{name}` is an account's id."""

    ours: str = ""
    providers: str = ""
    # Promises that cannot hold when this one is broken.
    also: frozenset[str] = frozenset()


def account(name: str) -> str:
    return f"(SELECT id FROM accounts_account WHERE name = '{name}')"


def ledger_account(kind: str, of: str = "") -> str:
    owner = f"account_id = {account(of)}" if of else "account_id IS NULL"
    return f"""(SELECT id FROM billing_ledgeraccount
                 WHERE kind = '{kind}' AND currency = 'EUR' AND gateway IN ('', 'sandbox') AND {owner})"""


def correction(
    *postings: str, currency: str = "EUR", kind: str = "CORRECTION", source: str = "test:1"
) -> str:
    """An entry, of a kind that no promise knows. A posting: "ledger account, amount, version, balance"."""
    values = ", ".join(f"({posting})" for posting in postings)
    return f"""
        WITH entry AS (
            INSERT INTO billing_ledgerentry (kind, source, currency, account_id, description, effective_at)
            VALUES ('{kind}', '{source}', '{currency}', {account("pays")}, '', now()) RETURNING id)
        INSERT INTO billing_posting (entry_id, ledger_account_id, amount_minor, version, balance_minor)
        SELECT entry.id, p.* FROM entry CROSS JOIN (VALUES {values}) AS p (ledger_account, amount, version, balance);
    """


def company_side(amount: int) -> str:
    return f"{ledger_account('REVENUE')}, {amount}, NULL::bigint, NULL::bigint"


def next_on(kind: str, of: str, amount: int) -> str:
    """A posting that continues a running balance as it should."""
    latest = f"""FROM billing_posting WHERE ledger_account_id = {ledger_account(kind, of)}
                 ORDER BY version DESC LIMIT 1"""
    return f"""{ledger_account(kind, of)}, {amount}, (SELECT version + 1 {latest}),
               (SELECT balance_minor + {amount} {latest})"""


def closure_of(of: str, *, locked_at: str = "now()", reopened_at: str, written_off: int = 0) -> str:
    return f"""
        INSERT INTO billing_accountclosure (account_id, token, debt, credit, because, closed_at, closed_by, locked_at,
                                            written_off_minor, paid_back_minor, reopened_at, reopened_by,
                                            reopened_because)
        VALUES ({account(of)}, gen_random_uuid(), 'COLLECT', 'KEEP', 'x', '2000-01-01', 'ann', {locked_at},
                {written_off}, 0, {reopened_at}, 'ann', 'x')"""


def case_of(of: str, next_try_on: str) -> str:
    return f"""
        INSERT INTO billing_dunningcase (account_id, opened_at, decline_class, decline_code, retries_made,
                                         next_try_at, ends_at, closed_because)
        VALUES ({account(of)}, '2018-11-02', 'SOFT', 'card_declined', 0, '{next_try_on}', '2030-01-01', '')"""


def unconstrained(table: str, *constraints: str) -> str:
    return "".join(f"ALTER TABLE {table} DROP CONSTRAINT {name};" for name in constraints)


def one(table: str, where: str) -> str:
    return f"(SELECT id FROM {table} WHERE {where} ORDER BY id LIMIT 1)"


def october(of: str) -> str:
    return f"(SELECT id FROM billing_billingperiod WHERE month = '2018-10-01' AND account_id = {account(of)})"


def invoice(of: str, month: str = "2018-10-01") -> str:
    return f"""(SELECT i.id FROM billing_invoice i JOIN billing_billingperiod p ON p.id = i.period_id
                 WHERE p.month = '{month}' AND i.account_id = {account(of)})"""


MANUAL_CASH = one("billing_ledgeraccount", "kind = 'CASH' AND gateway = 'manual'")
LAST_INVOICE = "(SELECT id FROM billing_invoice ORDER BY sequence DESC LIMIT 1)"
DECEMBER_RUN = "(SELECT id FROM billing_closerun WHERE state = 'RUNNING')"
TAKEN_BACK = (
    f"(SELECT id FROM billing_payment WHERE account_id = {account('has its money taken back')})"
)
UNTALLIED = "(SELECT id FROM billing_usagebatch WHERE tallied_at IS NULL)"
EVENT_COLUMNS = "account_id, source, kind, item, unit, quantity, unit_price, amount, starts_at, ends_at, description, attributes"
LINE_COLUMNS = "kind, product_id, price_id, description, quantity, free_quantity, unit, unit_price, starts_at, ends_at"
STEP_COLUMNS = "run_id, kind, state, priority, attempts, expected, because, last_error"


def step(kind: str) -> str:
    """One of the run that has not begun."""
    first = one("billing_step", f"run_id = {DECEMBER_RUN} AND kind = '{kind}'")
    return f"id = {first}"


def invented(kind: str, source: str) -> Break:
    """An entry books what never was."""
    return Break(correction(company_side(1), company_side(-1), kind=kind, source=source))


def unbooked(kind: str, where: str = "true") -> Break:
    """The entry of an event is lost, and another, of no known kind, is found."""
    entry = one("billing_ledgerentry", f"kind = '{kind}' AND {where}")
    return Break(f"UPDATE billing_ledgerentry SET kind = 'CORRECTION' WHERE id = {entry}")


BREAKS = {
    # --- ledger
    "ledger_entry_sums_to_zero": Break(
        correction(company_side(1), source="test:1") + correction(company_side(-1), source="test:2")
    ),
    "ledger_sums_to_zero": Break(
        f"""INSERT INTO billing_posting (entry_id, ledger_account_id, amount_minor)
            VALUES (0, {ledger_account("REVENUE")}, 1)"""
    ),
    "ledger_posting_is_in_its_entrys_currency": Break(
        correction(company_side(1), company_side(-1), currency="USD")
    ),
    "ledger_posting_is_its_entrys_accounts": Break(
        f"UPDATE billing_ledgerentry SET account_id = {account('pays')} WHERE kind = 'CREDIT_EXPIRED'"
    ),
    "ledger_posting_is_not_zero": Break(
        unconstrained("billing_posting", "posting_is_not_zero")
        + correction(company_side(1), company_side(-1), company_side(0))
    ),
    "ledger_customer_side_keeps_a_running_balance": Break(
        f"""UPDATE billing_posting SET version = 1, balance_minor = amount_minor
             WHERE id = {one("billing_posting", f"ledger_account_id = {ledger_account('REVENUE')}")}"""
    ),
    "ledger_versions_have_no_gap": Break(
        f"""UPDATE billing_posting SET version = version + 1
             WHERE id = (SELECT max(id) FROM billing_posting
                          WHERE ledger_account_id = {ledger_account("RECEIVABLE", "pays")})"""
    ),
    "ledger_running_balance_adds_up": Break(
        f"""UPDATE billing_posting SET balance_minor = balance_minor + 1
             WHERE ledger_account_id = {ledger_account("RECEIVABLE", "pays")} AND version = 1"""
    ),
    "ledger_balance_is_the_sum_of_its_postings": Break(
        correction(
            f"{ledger_account('RECEIVABLE', 'pays')}, 1, NULL::bigint, NULL::bigint",
            company_side(-1),
        ),
        # Where the chain is whole, its last balance is the sum: only what stands beside it can differ.
        also=frozenset({"ledger_customer_side_keeps_a_running_balance"}),
    ),
    "ledger_time_never_runs_backwards": Break(
        f"""UPDATE billing_posting SET posted_at = posted_at - interval '1 hour'
             WHERE ledger_account_id = {ledger_account("RECEIVABLE", "pays")} AND version = 2"""
    ),
    "ledger_event_is_booked_once": Break(
        unconstrained("billing_ledgerentry", "one_entry_per_business_event")
        + 2 * correction(company_side(1), company_side(-1))
    ),
    "ledger_receivable_is_what_is_due": Break(
        correction(next_on("RECEIVABLE", "pays", 1), company_side(-1))
    ),
    "ledger_credit_is_what_remains": Break(
        correction(next_on("CUSTOMER_CREDIT", "overpays", 1), company_side(-1)),
        # The entry is of "pays", the credit of another.
        also=frozenset({"ledger_posting_is_its_entrys_accounts"}),
    ),
    # --- invoices
    "invoice_one_per_account_and_period": Break(
        unconstrained("billing_invoice", "one_invoice_per_account_and_period")
        + f"""INSERT INTO billing_invoice (entity_id, account_id, period_id, state, account_name, currency, total_minor)
              SELECT entity_id, account_id, period_id, 'DRAFT', account_name, currency, 0
                FROM billing_invoice WHERE id = {invoice("pays")}"""
    ),
    "invoice_period_is_its_accounts": Break(
        f"UPDATE billing_invoice SET period_id = {october('uses what has no price')} WHERE id = {invoice('pays')}"
    ),
    "invoice_total_is_the_sum_of_its_lines": Break(
        f"""INSERT INTO billing_lineitem (invoice_id, position, amount_unrounded, amount_minor, {LINE_COLUMNS})
            VALUES ({invoice("pays")}, 99, 0.01, 1, 'FEE', {one("billing_product", "true")}, NULL, '', 1, 0, '', NULL, now(), now())"""
    ),
    "invoice_line_is_quantity_times_price": Break(
        f"UPDATE billing_lineitem SET amount_unrounded = amount_unrounded + 1 WHERE invoice_id = {invoice('pays')}"
    ),
    "invoice_line_is_rounded_half_up": Break(
        f"""UPDATE billing_lineitem SET amount_minor = amount_minor + CASE position WHEN 1 THEN 1 ELSE -1 END
             WHERE invoice_id = {invoice("is priced by the catalogue")}"""
    ),
    "invoice_line_bills_its_own_summary": Break(
        f"UPDATE billing_usagesummary SET invoice_id = {invoice('declines')} WHERE invoice_id = {invoice('pays')}"
    ),
    "invoice_numbered_exactly_when_issued": Break(
        unconstrained("billing_invoice", "numbered_exactly_when_issued")
        + f"UPDATE billing_invoice SET due_at = NULL WHERE id = {invoice('pays')}"
    ),
    "invoice_numbers_have_no_gap": Break(
        f"""UPDATE billing_invoice SET sequence = sequence + 1 WHERE id = {LAST_INVOICE};
            UPDATE billing_numberseries SET next_number = next_number + 1"""
    ),
    "invoice_numbers_follow_issue_order": Break(
        f"""UPDATE billing_invoice SET issued_at = issued_at - interval '1 hour', due_at = due_at - interval '1 hour'
             WHERE id = {LAST_INVOICE}"""
    ),
    "invoice_is_past_due_when_its_day_is_over": Break(
        f"UPDATE billing_invoice SET time_zone = 'Europe/Budapest' WHERE id = {invoice('pays')}"
    ),
    "invoice_number_series_is_current": Break(
        "UPDATE billing_numberseries SET next_number = next_number + 1"
    ),
    "invoice_settled_exactly_when_paid": Break(
        f"UPDATE billing_invoice SET settled_at = NULL WHERE id = {invoice('pays')}"
    ),
    "invoice_is_never_overpaid": Break(
        f"""UPDATE billing_allocation SET invoice_id = {invoice("pays", "2018-11-01")} WHERE invoice_id = {invoice("pays")};
            UPDATE billing_invoice SET settled_at = NULL WHERE id = {invoice("pays")}"""
    ),
    "invoice_is_booked_exactly_when_issued": unbooked("INVOICE_ISSUED"),
    "invoice_is_booked_with_its_total": Break(
        f"""UPDATE billing_posting SET ledger_account_id = {ledger_account("PROMOTIONS")}
             WHERE id = {one("billing_posting", f"ledger_account_id = {ledger_account('REVENUE')}")}"""
    ),
    # --- usage
    "usage_event_is_stored_once": Break(
        f"""INSERT INTO billing_usageevent (batch_id, product_id, event_id, effective_at, {EVENT_COLUMNS})
            SELECT batch_id, product_id, event_id, effective_at - interval '1 month', {EVENT_COLUMNS}
              FROM billing_usageevent WHERE batch_id = {UNTALLIED} LIMIT 1"""
    ),
    "usage_event_refers_to_what_exists": Break(
        f"""INSERT INTO billing_usageevent (batch_id, product_id, event_id, effective_at, {EVENT_COLUMNS})
            SELECT batch_id, 0, 'other', effective_at, {EVENT_COLUMNS}
              FROM billing_usageevent WHERE batch_id = {UNTALLIED} LIMIT 1"""
    ),
    "usage_tallied_events_are_counted": Break(
        "UPDATE billing_usageevent SET quantity = quantity + 1 WHERE event_id = 'event-1'"
    ),
    "usage_summary_is_in_its_accounts_period": Break(
        f"""UPDATE billing_usagesummary SET period_id = {october("uses what has no price")}
             WHERE invoice_id IS NULL AND account_id = {account("pays")}"""
    ),
    "usage_periods_tile": Break(
        f"UPDATE billing_billingperiod SET ends_at = ends_at - interval '1 hour' WHERE id = {october('pays')}"
    ),
    "usage_summary_is_billed_once": Break(
        unconstrained("billing_lineitem", "billing_lineitem_summary_id_key")
        + f"""INSERT INTO billing_lineitem (invoice_id, position, summary_id, amount_unrounded, amount_minor, {LINE_COLUMNS})
              SELECT invoice_id, 99, summary_id, amount_unrounded, amount_minor, {LINE_COLUMNS}
                FROM billing_lineitem WHERE invoice_id = {invoice("uses for nothing")}"""
    ),
    "usage_taken_by_an_invoice_is_on_it": Break(
        f"DELETE FROM billing_lineitem WHERE invoice_id = {invoice('uses for nothing')}"
    ),
    "usage_is_billed_as_summarised": Break(
        f"UPDATE billing_lineitem SET quantity = quantity + 1 WHERE invoice_id = {invoice('is given back')}"
    ),
    "usage_before_the_invoice_step_is_billed": Break(
        f"""UPDATE billing_usagesummary SET created_at = created_at - interval '1 hour'
             WHERE invoice_id IS NULL AND account_id = {account("pays")}"""
    ),
    # --- payments
    "payment_is_booked": unbooked("PAYMENT_RECEIVED", f"account_id = {account('pays')}"),
    "payment_is_booked_with_its_amount": Break(
        f"""UPDATE billing_posting
               SET ledger_account_id = {one("billing_ledgeraccount", "kind = 'CASH' AND gateway = 'manual'")}
             WHERE id = {one("billing_posting", f"ledger_account_id = {ledger_account('CASH')}")}"""
    ),
    "payment_is_spread_whole": Break(
        f"""UPDATE billing_payment SET amount_minor = amount_minor + 1 WHERE account_id = {account("overpays")};
            UPDATE billing_posting SET amount_minor = amount_minor + 1
             WHERE ledger_account_id = {MANUAL_CASH}
               AND entry_id = (SELECT id FROM billing_ledgerentry
                                WHERE kind = 'PAYMENT_RECEIVED' AND account_id = {account("overpays")});
            INSERT INTO billing_posting (entry_id, ledger_account_id, amount_minor)
            SELECT id, {ledger_account("REVENUE")}, -1 FROM billing_ledgerentry
             WHERE kind = 'PAYMENT_RECEIVED' AND account_id = {account("overpays")}"""
    ),
    "payment_attempt_succeeded_exactly_when_paid": Break(
        f"UPDATE billing_paymentattempt SET state = 'RELEASED' WHERE account_id = {account('pays')}"
    ),
    "payment_one_attempt_in_flight": Break(
        """DROP INDEX one_attempt_in_flight_per_account_and_currency;
           INSERT INTO billing_paymentattempt (id, account_id, kind, currency, amount_minor, payment_method_id, gateway,
                                               state, decline_code, advice_code, decline_class, because,
                                               review_owner, resolved_by, key_generation, next_action_at, updated_at)
           SELECT gen_random_uuid(), account_id, kind, currency, amount_minor, payment_method_id, gateway,
                  'RESERVED', '', '', '', '', '', '', 0, next_action_at, updated_at
             FROM billing_paymentattempt WHERE state = 'SUBMITTED'"""
    ),
    "payment_attempt_is_not_left_in_doubt": Break(
        """UPDATE billing_paymentattempt SET next_action_at = next_action_at - interval '1 hour'
            WHERE state = 'SUBMITTED'"""
    ),
    "dunning_open_case_has_something_due": Break(case_of("pays", "2030-01-01")),
    "dunning_case_is_looked_at": Break(case_of("declines", "2018-12-01")),
    "payment_blocked_card_is_not_charged": Break(
        f"""UPDATE accounts_paymentmethod
               SET state = 'BLOCKED', blocked_at = timestamptz '2018-11-01', is_default = false
             WHERE account_id = {account("pays")}"""
    ),
    "payment_attempt_uses_its_own_card": Break(
        f"""UPDATE billing_paymentattempt
               SET payment_method_id = {one("accounts_paymentmethod", f"account_id = {account('declines')}")}
             WHERE state = 'SUBMITTED'"""
    ),
    "payment_allocation_stays_within_the_account": Break(
        f"""UPDATE billing_allocation x SET payment_id = other.payment_id
              FROM billing_allocation other
             WHERE (x.invoice_id, other.invoice_id) IN (
                   ({invoice("pays")}, {invoice("is in Budapest")}), ({invoice("is in Budapest")}, {invoice("pays")}))"""
    ),
    # --- payments that went back
    "reversal_is_booked": unbooked("PAYMENT_REVERSED"),
    "reversal_is_booked_with_its_amount": Break(
        f"""UPDATE billing_posting
               SET ledger_account_id = {one("billing_ledgeraccount", "kind = 'CASH' AND gateway <> 'manual' AND currency = 'EUR'")}
             WHERE id = {one("billing_posting", f"ledger_account_id = {MANUAL_CASH} AND amount_minor < 0")}"""
    ),
    "reversal_is_never_more_than_the_payment": Break(
        """INSERT INTO billing_paymentreversal (account_id, payment_id, gateway, provider_ref, amount_minor, credit_minor,
                                                owed_minor, lost_minor, reason, recorded_by, reversed_at)
           SELECT account_id, payment_id, gateway, 'again', 1, 1, 0, 0, '', '', now()
             FROM billing_paymentreversal LIMIT 1""",
        also=frozenset({"reversal_is_booked"}),
    ),
    "reversal_takes_back_what_was_allocated": Break(
        f"""UPDATE billing_allocation x SET reverses_id = (SELECT max(other.reverses_id) FROM billing_allocation other
                                                          WHERE other.reverses_id <> x.reverses_id)
             WHERE id = {one("billing_allocation", "reverses_id IS NOT NULL")}"""
    ),
    "reversal_reopens_what_is_owed_again": Break(
        """UPDATE billing_paymentreversal SET owed_minor = owed_minor - 1, credit_minor = credit_minor + 1
            WHERE provider_ref = 'return-1'""",
        also=frozenset({"reversal_is_booked_with_its_amount"}),
    ),
    "reversal_lost_only_what_was_paid_back": Break(
        """UPDATE billing_paymentreversal SET owed_minor = owed_minor - 1, lost_minor = 1
            WHERE provider_ref = 'return-1'""",
        also=frozenset(
            {"reversal_is_booked_with_its_amount", "reversal_reopens_what_is_owed_again"}
        ),
    ),
    # --- disputes
    "dispute_clearing_is_what_is_open": Break(
        f"""UPDATE billing_posting
               SET ledger_account_id = {one("billing_ledgeraccount", "kind = 'DISPUTE_FEES'")}
             WHERE entry_id = {one("billing_ledgerentry", "kind = 'DISPUTE_WON'")} AND amount_minor < 0"""
    ),
    "dispute_is_booked_with_its_amount_and_fee": Break(
        f"""UPDATE billing_posting
               SET ledger_account_id = {one("billing_ledgeraccount", "kind = 'REVENUE' AND currency = 'EUR'")}
             WHERE ledger_account_id = {one("billing_ledgeraccount", "kind = 'DISPUTE_FEES'")}
               AND entry_id = {one("billing_ledgerentry", "kind = 'DISPUTE_OPENED'")}"""
    ),
    "dispute_won_is_booked": unbooked("DISPUTE_WON"),
    "dispute_lost_has_its_reversal": Break(
        """UPDATE billing_paymentreversal SET provider_ref = 'other'
            WHERE provider_ref = (SELECT provider_ref FROM billing_dispute WHERE state = 'LOST')"""
    ),
    "dispute_open_pauses_charging": Break(
        f"""UPDATE accounts_chargingpause SET resumed_at = now(), resumed_by = 'ann'
             WHERE account_id = {account("disputes")}"""
    ),
    # --- refunds
    "refund_is_booked": unbooked("REFUND_RESERVED"),
    "refund_is_booked_with_its_amount": Break(
        f"""UPDATE billing_posting SET ledger_account_id = {one("billing_ledgeraccount", "kind = 'CASH' AND gateway = 'sandbox' AND currency = 'EUR'")}
             WHERE ledger_account_id = {MANUAL_CASH}
               AND entry_id = {one("billing_ledgerentry", "kind = 'REFUND_SENT'")}"""
    ),
    "refund_in_transit_is_on_its_way": Break(
        correction(
            "(SELECT id FROM billing_ledgeraccount WHERE kind = 'REFUNDS_IN_TRANSIT' AND gateway = 'sandbox'), -1,"
            " NULL::bigint, NULL::bigint",
            company_side(1),
        )
    ),
    "refund_is_never_more_than_the_payment": Break(
        f"""UPDATE billing_refund SET requested_at = now(), payment_id = {TAKEN_BACK}
             WHERE account_id = {account("overpays")}""",
        also=frozenset({"refund_is_booked_with_its_amount", "refund_takes_its_credit"}),
    ),
    "refund_takes_its_credit": Break(
        f"""UPDATE billing_creditgrant SET refunded_minor = refunded_minor - 1, expired_minor = expired_minor + 1
             WHERE account_id = {account("overpays")}""",
        also=frozenset({"credit_expiry_is_booked"}),
    ),
    "refund_sent_back_is_credit": Break(
        "UPDATE billing_creditgrant SET kind = 'OTHER' WHERE kind = 'RETURNED'"
    ),
    # --- providers
    "provider_reversal_is_booked": Break(
        providers="""UPDATE charge SET status = 'REVERSED'
                      WHERE rowid = (SELECT min(rowid) FROM charge WHERE status = 'SUCCEEDED')"""
    ),
    "provider_success_is_a_payment": Break(
        providers="UPDATE charge SET status = 'SUCCEEDED' WHERE status = 'CANCELED'"
    ),
    "provider_knows_every_payment": Break(
        providers="DELETE FROM charge WHERE rowid = (SELECT min(rowid) FROM charge WHERE status = 'SUCCEEDED')"
    ),
    "provider_charged_no_attempt_twice": Break(
        providers="""INSERT INTO charge
                     SELECT 'again', own_reference, account_ref, token, currency, amount_minor, status, decline_code
                       FROM charge ORDER BY rowid DESC LIMIT 1"""
    ),
    "provider_object_is_ours": Break(
        providers="INSERT INTO charge VALUES ('theirs', 'theirs', 'theirs', 'visa', 'EUR', 1, 'SUCCEEDED', '')"
    ),
    # --- credit
    "credit_remaining_adds_up": Break(
        f"""UPDATE billing_creditgrant SET remaining_minor = remaining_minor + CASE amount_minor WHEN 500 THEN -1 ELSE 1 END
             WHERE account_id = {account("has much credit")}"""
    ),
    "credit_is_never_overspent": Break(
        unconstrained("billing_creditgrant", "grant_is_never_overspent")
        + f"""UPDATE billing_creditgrant SET remaining_minor = remaining_minor + CASE amount_minor WHEN 500 THEN 1 ELSE -1 END
               WHERE account_id = {account("has much credit")}""",
        also=frozenset({"credit_remaining_adds_up"}),
    ),
    "closure_account_is_closed": Break(closure_of("pays", reopened_at="NULL")),
    "closure_ends_charging": Break(
        closure_of("pays", locked_at="'2000-01-01'", reopened_at="'2100-01-01'")
    ),
    "closure_write_off_is_booked": Break(
        closure_of("pays", reopened_at="'2000-01-02'", written_off=1)
    ),
    "credit_given_is_booked": unbooked("CREDIT_GRANTED"),
    "credit_use_is_booked": unbooked("CREDIT_APPLIED"),
    "credit_expiry_is_booked": unbooked("CREDIT_EXPIRED"),
    "credit_left_of_payments_is_granted": Break(
        "UPDATE billing_creditgrant SET kind = 'OTHER' WHERE kind = 'SURPLUS'"
    ),
    "credit_of_negative_invoices_is_granted": Break(
        "UPDATE billing_creditgrant SET kind = 'OTHER' WHERE kind = 'INVOICE'"
    ),
    "credit_is_used_before_money_is_owed": Break(
        f"""UPDATE billing_creditgrant SET account_id = {account("declines")}
             WHERE kind = 'SURPLUS' AND remaining_minor > 0""",
        # Moving it is the least that does it, and its ledger stays behind.
        also=frozenset({"ledger_credit_is_what_remains", "credit_left_of_payments_is_granted"}),
    ),
    # --- holds
    "hold_one_open_per_reason": Break(
        f"""DROP INDEX one_open_hold_per_account_and_reason;
            WITH hold AS (
                INSERT INTO accounts_hold (account_id, reason, placed_at)
                SELECT account_id, reason, placed_at FROM accounts_hold
                 WHERE account_id = {account("declines")} RETURNING id, account_id)
            INSERT INTO billing_decision (act, did, because, expected, saw, world_changed, account_id, hold_id, actor)
            SELECT 'PLACE_HOLD', 'DONE', '', '{{}}', '{{}}', false, account_id, id, 'ann' FROM hold"""
    ),
    "hold_is_placed_by_one_decision": Break(
        "UPDATE billing_decision SET hold_id = NULL WHERE act = 'HOLD' AND did = 'DONE'"
    ),
    "hold_is_lifted_by_one_decision": Break(
        "UPDATE billing_decision SET hold_id = NULL WHERE act = 'LIFT_HOLD'"
    ),
    "hold_comes_after_the_due_day": Break(
        f"UPDATE accounts_hold SET placed_at = '2018-10-31' WHERE account_id = {account('overpays')}"
    ),
    "hold_has_had_its_warning": Break(
        f"""UPDATE accounts_hold SET grace_days = 7, warned_at = placed_at - interval '8 days'
             WHERE account_id = {account("overpays")}"""
    ),
    "hold_has_something_overdue": Break(
        f"""UPDATE accounts_hold SET lifted_at = NULL WHERE account_id = {account("overpays")};
            UPDATE billing_decision SET hold_id = NULL WHERE act = 'LIFT_HOLD' AND account_id = {account("overpays")}""",
        also=frozenset({"hold_comes_after_the_due_day"}),
    ),
    # --- the close
    "close_month_has_one_run": Break(
        unconstrained("billing_closerun", "one_run_per_entity_and_month")
        + f"""WITH run AS (
                  INSERT INTO billing_closerun (entity_id, month, state, when_balance_changed, started_by, started_at)
                  SELECT entity_id, month, state, when_balance_changed, started_by, started_at
                    FROM billing_closerun WHERE id = {DECEMBER_RUN} RETURNING id)
              INSERT INTO billing_step ({STEP_COLUMNS}) SELECT id, 'REPORT', 'WAITING', 0, 0, '{{}}', '', '' FROM run"""
    ),
    "close_account_has_each_step_once": Break(f"DELETE FROM billing_step WHERE {step('HOLD')}"),
    "close_finished_run_adds_up": Break(
        """UPDATE billing_step SET state = 'READY', finished_at = NULL
            WHERE id = (SELECT min(id) FROM billing_step WHERE kind = 'EMAIL' AND state = 'SKIPPED')"""
    ),
    "close_run_reports_once": Break(f"DELETE FROM billing_step WHERE {step('REPORT')}"),
    "close_step_starts_after_its_predecessor": Break(
        f"UPDATE billing_step SET state = 'READY' WHERE {step('CHARGE')}"
    ),
    "close_waiting_step_will_be_woken": Break(
        f"UPDATE billing_step SET state = 'CANCELLED', finished_at = now() WHERE {step('INVOICE')}"
    ),
    "close_lease_is_alive": Break(
        f"""UPDATE billing_step SET state = 'RUNNING', lease_token = gen_random_uuid(), lease_until = now() - interval '1 hour'
             WHERE {step("INVOICE")}"""
    ),
    "close_ended_step_has_its_decision": Break(
        f"DELETE FROM billing_decision WHERE act = 'CHARGE' AND account_id = {account('pays')}"
    ),
    "close_report_agrees_with_the_invoices": Break(
        "UPDATE billing_closerun SET report = jsonb_set(report, '{currencies,0,invoices}', '99') WHERE state = 'FINISHED'"
    ),
    "close_report_adds_up": Break(
        "UPDATE billing_closerun SET report = jsonb_set(report, '{currencies,0,collected}', '\"9\"') WHERE state = 'FINISHED'"
    ),
    # --- bank transfers
    "transfer_is_booked_as_it_came_in": Break(
        """INSERT INTO billing_incomingtransfer (bank_ref, received_on, currency, amount_minor, reference, payer,
                                                 state, because, decided_by, payment_id)
           SELECT 'another', now(), currency, amount_minor, '', '', 'BOOKED', '', '', id
             FROM billing_payment WHERE gateway = 'manual' LIMIT 1"""
    ),
    "transfer_equal_ones_are_counted": Break(
        """INSERT INTO billing_incomingtransfer (bank_ref, received_on, currency, amount_minor, reference, payer,
                                                 state, because, decided_by, ordinal)
           VALUES ('one', '2018-11-02', 'EUR', 1, '', '', 'WAITING', '', '', 2)"""
    ),
    "transfer_recorded_before_is_its_payment": Break(
        """INSERT INTO billing_incomingtransfer (bank_ref, received_on, currency, amount_minor, reference, payer,
                                                 state, because, decided_by, resembles_id)
           SELECT 'other', '2018-11-02', currency, amount_minor + 1, '', '', 'RECORDED', '', 'ann', id
             FROM billing_payment WHERE gateway = 'manual' LIMIT 1"""
    ),
    # --- usage files
    "usage_import_adds_up": Break(
        "UPDATE billing_usagebatch SET rows_read = rows_read + 1 WHERE id = (SELECT min(id) FROM billing_usagebatch)"
    ),
    "usage_rejected_rows_are_counted": Break(
        """INSERT INTO billing_rejectedrow (batch_id, number, field, account, event_id, currency)
           SELECT min(id), 2, 'quantity', '', '', '' FROM billing_usagebatch"""
    ),
    # --- messages
    "message_one_per_fact": Break(
        unconstrained("notifications_message", "one_message_per_kind_and_fact")
        + """UPDATE notifications_message SET fact = (SELECT min(fact) FROM notifications_message WHERE kind = 'RECEIPT')
              WHERE kind = 'RECEIPT'"""
    ),
    "message_sent_exactly_when_it_says_when": Break(
        unconstrained("notifications_message", "sent_message_says_when")
        + "UPDATE notifications_message SET sent_at = now() WHERE kind = 'RECEIPT'"
    ),
    "message_lease_is_alive": Break(
        """UPDATE notifications_message SET state = 'SENDING', lease_until = now() - interval '1 hour'
            WHERE kind = 'RECEIPT'"""
    ),
    "message_of_a_done_email_step_was_sent": Break(
        """UPDATE notifications_message SET state = 'QUEUED', sent_at = NULL WHERE kind = 'INVOICE'"""
    ),
}

# The other way round, or the other half of a condition.
OTHER_WAYS = [
    ("invoice_is_booked_exactly_when_issued", invented("INVOICE_ISSUED", "invoice:0")),
    ("payment_is_booked", invented("PAYMENT_RECEIVED", "payment:0")),
    ("reversal_is_booked", invented("PAYMENT_REVERSED", "reversal:0")),
    ("dispute_won_is_booked", invented("DISPUTE_WON", "dispute:0")),
    ("dispute_is_booked_with_its_amount_and_fee", invented("DISPUTE_OPENED", "dispute:0")),
    ("refund_is_booked", invented("REFUND_SENT", "refund:0")),
    ("credit_given_is_booked", invented("CREDIT_GRANTED", "grant:0")),
    ("credit_use_is_booked", invented("CREDIT_APPLIED", "allocation:0")),
    ("credit_expiry_is_booked", invented("CREDIT_EXPIRED", "grant:0")),
    (
        "usage_tallied_events_are_counted",
        Break("UPDATE billing_usagesummary SET events = events + 1"),
    ),
    (
        "usage_periods_tile",
        Break(
            unconstrained("billing_billingperiod", "periods_of_an_account_never_overlap")
            + f"UPDATE billing_billingperiod SET ends_at = ends_at + interval '1 hour' WHERE id = {october('pays')}"
        ),
    ),
    (
        "payment_attempt_succeeded_exactly_when_paid",
        Break("UPDATE billing_paymentattempt SET state = 'SUCCEEDED' WHERE state = 'FAILED'"),
    ),
    (
        "payment_attempt_is_not_left_in_doubt",
        Break("UPDATE billing_paymentattempt SET next_action_at = NULL WHERE state = 'SUBMITTED'"),
    ),
    (
        "transfer_is_booked_as_it_came_in",
        Break(
            """UPDATE billing_payment SET gateway = 'transfer' WHERE gateway = 'manual';
               UPDATE billing_paymentreversal SET gateway = 'transfer' WHERE gateway = 'manual';
               UPDATE billing_refund SET gateway = 'transfer' WHERE gateway = 'manual';
               UPDATE billing_ledgeraccount SET gateway = 'transfer' WHERE gateway = 'manual'"""
        ),
    ),
    (
        "provider_success_is_a_payment",
        Break(providers="UPDATE charge SET amount_minor = amount_minor + 1"),
    ),
    (
        "provider_knows_every_payment",
        Break(
            providers="""UPDATE charge SET status = 'PROCESSING'
                          WHERE rowid = (SELECT min(rowid) FROM charge WHERE status = 'SUCCEEDED')"""
        ),
    ),
    (
        "close_ended_step_has_its_decision",
        Break(
            f"""INSERT INTO billing_decision (act, did, because, expected, saw, world_changed, account_id, run_id, actor)
                SELECT act, did, because, expected, saw, world_changed, account_id, run_id, actor
                  FROM billing_decision WHERE act = 'CHARGE' AND did = 'DONE' AND account_id = {account("pays")}"""
        ),
    ),
    (
        "close_run_reports_once",
        Break(
            f"UPDATE billing_step SET state = 'DONE', finished_at = now() WHERE {step('REPORT')}"
        ),
    ),
    (
        "message_lease_is_alive",
        Break("UPDATE notifications_message SET state = 'SENDING' WHERE kind = 'RECEIPT'"),
    ),
]
