"""What is broken, how, and by which test it must be caught."""

from dataclasses import dataclass
from pathlib import Path

BISECT = "notifications/bisect.py"
BOOKING = "billing/payments/booking.py"
COLLECTING = "billing/payments/charges/collecting.py"
HOLDING = "billing/dunning/holding.py"
RETRIES = "billing/payments/retries.py"
CHARGE_STEP = "billing/close/steps/charge.py"
SWEEPER = "billing/close/health/sweeper.py"
GATEWAYS_BASE = "billing/gateways/base.py"
WAITING_STATES = "billing/waiting/states.py"
CALLS = "billing/payments/charges/calls.py"
DRIVING = "billing/payments/charges/driving.py"
RECHECKING = "billing/payments/charges/rechecking.py"
RESERVING = "billing/payments/charges/reserving.py"
SETTLING = "billing/payments/charges/settling.py"
TIME_LIMITS = "billing/payments/charges/time_limits.py"
PROTOCOL = "billing/charge_protocol.py"
INBOUND = "billing/payments/inbound.py"
DISPATCHER_CLAIMS = "notifications/dispatcher/claims.py"
DISPATCHER_LOOP = "notifications/dispatcher/loop.py"
DISPATCHER_WINDOW = "notifications/dispatcher/window.py"
CLAIMING = "billing/close/engine/claiming.py"
LANES = "notifications/lanes/traffic.py"
LEASES = "billing/close/engine/leases.py"
STRIPE = "billing/gateways/stripe.py"
GUARD = "billing/payments/guard.py"
DELIVERY = "notifications/delivery.py"
PROSPECTS = "billing/messages/prospects.py"
RECHECKS = "billing/messages/rechecks.py"
HOLD_LIFTED = "billing/messages/hold_lifted.py"
PAYMENT_FAILED = "billing/messages/payment_failed.py"
DECLINE_WORDS = "billing/messages/decline_words.py"
FINDING = "billing/reconciliation/finding.py"
WORKING = "billing/reconciliation/working.py"
ATTEMPT_KIND = "billing/payments/charges/attempt_kind.py"
REFUND_KIND = "billing/payments/refunds/refund_kind.py"
REFUND_RESERVING = "billing/payments/refunds/reserving.py"
REFUND_SETTLING = "billing/payments/refunds/settling.py"
REFUND_TIME_LIMITS = "billing/payments/refunds/time_limits.py"
DISPUTES = "billing/payments/disputes.py"
REVERSALS = "billing/payments/reversals.py"
STATEMENTS = "billing/payments/bank_statements.py"
TRANSFERS = "billing/payments/transfers.py"
FOLLOWING_UP = "billing/usage/imports/following_up.py"
USAGE_FILES = "billing/usage/imports/files.py"
OUTLOOK = "billing/messages/outlook.py"
ISSUING = "billing/invoices/issuing.py"
PERIODS = "billing/periods.py"
STANDING = "billing/ledger/standing.py"
PAST_DUE = "billing/past_due.py"
SWEEPER = "billing/close/health/sweeper.py"
CHARGE_STEP = "billing/close/steps/charge.py"
HOW_ATTEMPTS_MOVE = "billing/migrations/0040_attempts_end_without_a_card.py"
FIRST_MIGRATION = "billing/migrations/0001_initial.py"

TEST_PAYMENTS = "tests/billing/test_payments.py"
TEST_LOST_CARDS = "tests/billing/test_lost_cards.py"
TEST_DEBITS = "tests/billing/test_debits.py"
TEST_RETRIES = "tests/billing/test_retries.py"
TEST_WAITING = "tests/billing/test_waiting.py"
TEST_CHARGE_STEP = "tests/billing/close/test_steps_charge.py"
TEST_SWEEPER = "tests/billing/close/test_sweeper.py"
TEST_GUARD = "tests/billing/test_guard.py"
TEST_INBOUND = "tests/billing/test_inbound.py"
TEST_REFUNDS = "tests/billing/test_refunds.py"
TEST_DISPUTES = "tests/billing/test_disputes.py"
TEST_TRANSFERS = "tests/billing/test_transfers.py"
TEST_IMPORTS = "tests/billing/test_imports.py"
TEST_CLOSURE = "tests/billing/test_closure.py"
TEST_UNPAID = "tests/billing/test_unpaid.py"
TEST_ANOTHER_CARD = "tests/billing/test_another_card.py"
TEST_RETRIES = "tests/billing/test_retries.py"
TEST_INVOICING = "tests/billing/test_invoicing.py"
TEST_HOLD = "tests/billing/close/test_steps_hold.py"
TEST_CLAIMING = "tests/billing/close/test_claiming.py"
TEST_DELIVERY = "tests/notifications/test_delivery.py"
TEST_MESSAGES = "tests/billing/test_messages.py"
TEST_DISPATCHER = "tests/notifications/test_dispatcher.py"
TEST_LANES = "tests/notifications/lanes/test_traffic.py"
TEST_RACERS = "tests/notifications/lanes/test_racers.py"
TEST_RESTORE = "tests/crashes/test_restore.py"
TEST_PHASES = "tests/crashes/test_charge_phases.py"
AT_ONCE = "tests/concurrency/test_payments.py"
IN_EVERY_ORDER = "tests/concurrency/test_interleavings.py"
MODEL = "tests/properties/test_charge_protocol_model.py"


class DoesNotApply(Exception):
    """The code has changed: the patch must be written anew, or it proves nothing."""


@dataclass(frozen=True)
class Change:
    """One piece of a file, and what is put in its place. The piece must be there exactly once."""

    file: str
    before: str
    after: str

    def made_to(self, root: Path) -> str:
        """
        The file with the change in it.

        :raises DoesNotApply: if the piece is not there, or is there more than once.
        """
        text = (root / self.file).read_text()
        if (times := text.count(self.before)) != 1:
            raise DoesNotApply(f"{self.file} has this {times} times, not once:\n{self.before}")
        return text.replace(self.before, self.after)


@dataclass(frozen=True)
class Patch:
    """A sabotage by name, and the tests of which each must fail: `file::function`."""

    name: str
    changes: tuple[Change, ...]
    caught_by: tuple[str, ...]


PATCHES = (
    Patch(
        "a repeat makes a new object, by a new key",
        (
            Change(
                CALLS,
                "_prepare(attempt) if is_fresh else _find_or_prepare(attempt)",
                "_prepare(attempt)",
            ),
            Change(
                CALLS, "|{call}|{attempt.key_generation}", "|{call}|{__import__('uuid').uuid4()}"
            ),
        ),
        (
            f"{TEST_PAYMENTS}::test_of_prepare_takes_the_same_object_over",
            f"{TEST_PAYMENTS}::test_a_restored_row_takes_over_the_object_that_has_taken_the_money",
        ),
    ),
    Patch(
        "a timeout is taken as failed",
        (
            Change(
                TIME_LIMITS, "REVIEW_AFTER = timedelta(hours=24)", "REVIEW_AFTER = timedelta(0)"
            ),
            Change(
                PROTOCOL,
                "Move.UNANSWERED: dict.fromkeys(AT_THE_PROVIDER, State.REVIEW)",
                "Move.UNANSWERED: dict.fromkeys(AT_THE_PROVIDER, State.FAILED)",
            ),
        ),
        (
            f"{TEST_PAYMENTS}::test_of_submit_leaves_the_attempt_until_the_provider_has_said",
            f"{MODEL}::test_the_protocol_charges_once_loses_nothing_and_always_ends",
        ),
    ),
    Patch(
        "what is reserved is not looked at under the lock",
        (
            Change(
                RESERVING,
                "    accounts = locks.accounts_for_update(ids)\n    standings",
                "    accounts = Account.objects.in_bulk(ids)\n    standings",
            ),
        ),
        (f"{IN_EVERY_ORDER}::test_charge_and_charge",),
    ),
    Patch(
        "the recheck takes no lock",
        (
            Change(
                RECHECKING,
                "    accounts = locks.accounts_for_update(ids)\n    stopped = guard.closed(",
                "    from accounts.models import Account\n\n"
                "    accounts = Account.objects.in_bulk(ids)\n    stopped = guard.closed(",
            ),
            Change(
                ATTEMPT_KIND,
                "    locks.accounts_for_update(attempt.account_id for attempt in attempts)\n    _refresh(",
                "    _refresh(",
            ),
        ),
        (f"{AT_ONCE}::test_a_payment_that_has_the_lock_first_is_seen_by_the_recheck",),
    ),
    Patch(
        "released without a cancel",
        (
            Change(
                PROTOCOL,
                "Move.NO_LONGER_DUE: dict.fromkeys(RECHECKED, State.CANCELING)",
                "Move.NO_LONGER_DUE: dict.fromkeys(RECHECKED, State.RELEASED)",
            ),
        ),
        (
            f"{AT_ONCE}::test_cannot_charge_what_the_other_has_given_up",
            f"{MODEL}::test_the_protocol_charges_once_loses_nothing_and_always_ends",
        ),
    ),
    Patch(
        "a decline ends it at once",
        (
            Change(
                PROTOCOL,
                "Status.DECLINED: dict.fromkeys(AT_THE_PROVIDER, State.CANCELING)",
                "Status.DECLINED: dict.fromkeys(AT_THE_PROVIDER, State.RELEASED)",
            ),
        ),
        (
            f"{TEST_PAYMENTS}::test_a_decline_is_canceled_at_the_provider_before_it_is_over",
            f"{MODEL}::test_the_protocol_charges_once_loses_nothing_and_always_ends",
        ),
    ),
    Patch(
        "sent again without asking where it stands",
        (
            Change(
                DRIVING,
                "        self._out.pop(attempt)\n        calls.note_unknown(",
                "        if self._out.pop(attempt) is Call.ASK:\n"
                "            self._to_recheck.append(attempt)\n"
                "            return\n        calls.note_unknown(",
            ),
            Change(
                ATTEMPT_KIND,
                "was_heard = attempt.was_asked or attempt.state not in charge_protocol.ASKED_FIRST",
                "was_heard = True",
            ),
        ),
        (f"{TEST_PAYMENTS}::test_does_not_send_before_the_provider_has_answered_where_it_stands",),
    ),
    Patch(
        "sent again without looking whether it is still due",
        (
            Change(
                PROTOCOL,
                "RECHECKED = frozenset({State.PREPARED, State.SUBMITTED, State.REQUIRES_ACTION})",
                "RECHECKED = frozenset({State.PREPARED})",
            ),
        ),
        (f"{TEST_PAYMENTS}::test_never_charges_who_has_paid_by_hand_meanwhile",),
    ),
    Patch(
        "a second success is not booked",
        (
            Change(
                SETTLING,
                "    is_first = attempt.state != State.SUCCEEDED\n",
                "    if attempt.state == State.SUCCEEDED:\n        return\n    is_first = True\n",
            ),
        ),
        (f"{TEST_PAYMENTS}::test_money_that_one_left_behind_took_is_booked_too_and_said",),
    ),
    Patch(
        "a success that comes late is not booked",
        (
            Change(
                PROTOCOL,
                "Status.SUCCEEDED: dict.fromkeys(State, State.SUCCEEDED)",
                "Status.SUCCEEDED: dict.fromkeys(IN_FLIGHT, State.SUCCEEDED)",
            ),
        ),
        (f"{TEST_PAYMENTS}::test_a_late_success_of_a_debt_paid_otherwise_becomes_credit",),
    ),
    Patch(
        "settled without looking whether it is booked",
        (
            Change(
                SETTLING,
                "[(a, seen) for a, seen in heard if (a.gateway, seen.ref) not in booked]",
                "heard",
            ),
        ),
        (f"{AT_ONCE}::test_ten_who_learn_of_the_same_success_book_it_once",),
    ),
    Patch(
        "two attempts in flight",
        (
            Change(RESERVING, "    if in_flight is not None:\n", "    if False:\n"),
            Change(
                FIRST_MIGRATION,
                'name="one_attempt_in_flight_per_account_and_currency"',
                'name="one_attempt_in_flight_per_account_and_currency", deferrable=None,'
                " include=[]) if False else models.UniqueConstraint(\n"
                '                fields=["id"], name="one_attempt_in_flight_per_account_and_currency"',
            ),
        ),
        (f"{AT_ONCE}::test_many_collects_at_once_are_one_attempt",),
    ),
    Patch(
        "what is left over is dropped",
        (
            Change(
                BOOKING,
                "_surplus(source) for source in sources if source.available_minor",
                "_surplus(source) for source in sources if False",
            ),
        ),
        (f"{TEST_PAYMENTS}::test_keeps_what_is_left_over_as_credit",),
    ),
    Patch(
        "the receipt is written after the money's transaction",
        (
            Change(
                BOOKING,
                "    _send_receipts(payments, allocations, accounts, as_of=as_of)\n",
                "    transaction.on_commit(\n        lambda: _send_receipts("
                "payments, allocations, accounts, as_of=as_of)\n    )\n",
            ),
        ),
        (f"{TEST_PHASES}::test_killed_there_is_charged_once_all_the_same",),
    ),
    Patch(
        "giving up is no decision",
        (
            Change(
                RECHECKING,
                "            given_up.append(_gave_up(attempt, standing, because))\n",
                "",
            ),
        ),
        (f"{TEST_PAYMENTS}::test_giving_up_is_a_decision",),
    ),
    Patch(
        "one that cannot be written down stops the others' money",
        (
            Change(
                BISECT,
                "    if len(items) == 1:\n        yield items[0], error\n        return\n",
                "    if items:\n        yield from ((item, error) for item in items)\n        return\n",
            ),
        ),
        (f"{TEST_PAYMENTS}::test_one_that_cannot_be_written_down_stops_no_others_money",),
    ),
    Patch(
        "a webhook is believed",
        (
            Change(
                INBOUND,
                "        case Observation():\n            return _apply(event, answer, as_of=as_of)\n",
                "        case Observation():\n"
                '            if event.type.endswith("succeeded"):\n'
                "                import json\n"
                '                told = json.loads(event.body)["data"]["object"]["amount_received"]\n'
                "                answer = dataclasses.replace(\n"
                "                    answer, status=gateways.Status.SUCCEEDED, amount_minor=told\n"
                "                )\n"
                "            return _apply(event, answer, as_of=as_of)\n",
            ),
        ),
        (f"{TEST_INBOUND}::test_is_not_believed_to_have_succeeded",),
    ),
    Patch(
        "a webhook's signature is not looked at",
        (
            Change(
                STRIPE,
                '        _verify(headers.get("Stripe-Signature", ""), body)\n',
                "",
            ),
        ),
        (
            "tests/billing/test_webhook_view.py::test_unsigned",
            "tests/billing/test_webhook_view.py::test_altered",
        ),
    ),
    Patch(
        "a lease does not fence",
        (
            Change(
                LEASES,
                "for pk, token in rows if token == tokens[pk]",
                "for pk, token in rows",
            ),
        ),
        ("tests/billing/close/test_runner.py::test_nor_while_another_is_at_work_on_it",),
    ),
    Patch(
        "charging goes on in a restored database",
        (
            Change(
                GUARD, 'return "" if standing.is_this_database else ANOTHER_DATABASE', 'return ""'
            ),
        ),
        (f"{TEST_GUARD}::test_for_every_kind_of_charge_when_it_is_another_database",),
    ),
    Patch(
        "a closed account is charged by itself",
        (Change(RESERVING, "if is_asked_for or request.account_id not in closed:", "if True:"),),
        (f"{TEST_CLOSURE}::test_a_run_that_had_invoiced_it_charges_and_holds_it_no_more",),
    ),
    Patch(
        "one account's time zone stops every close",
        (
            Change(
                "billing/periods.py",
                "there = zones.known(time_zones)",
                "there = list(time_zones)",
            ),
        ),
        (
            "tests/billing/close/test_poison.py::test_is_listed_and_blocked_while_all_others_are_closed",
        ),
    ),
    Patch(
        "the provider's newest objects are not looked at",
        (Change(GUARD, "    if unknown := _unknown(name, newest):\n", "    if unknown := []:\n"),),
        (
            f"{TEST_GUARD}::test_when_a_newest_object_is_of_no_attempt_of_ours",
            "tests/crashes/test_restore.py::test_before_the_invoices_the_money_is_credit_that_pays_them",
        ),
    ),
    Patch(
        "the recheck does not ask whether charging is paused",
        (
            Change(
                RECHECKING,
                "stopped = guard.closed(attempt.gateway for attempt in attempts)",
                "stopped: dict[str, str] = {}",
            ),
        ),
        (f"{TEST_GUARD}::test_nor_does_one_of_a_close_go_on_between_prepare_and_submit",),
    ),
    Patch(
        "the dispatcher does not ask whether charging is paused",
        (
            Change(
                ATTEMPT_KIND,
                "    closed = guard.closed(attempt.gateway for attempt in attempts)\n",
                "    closed: dict[str, str] = {}\n",
            ),
            Change(
                RECHECKING,
                "stopped = guard.closed(attempt.gateway for attempt in attempts)",
                "stopped: dict[str, str] = {}",
            ),
        ),
        (f"{TEST_GUARD}::test_an_attempt_between_prepare_and_submit_stays_where_it_is",),
    ),
    Patch(
        "what could still move money is left as it is after a restore",
        (Change(FINDING, "    if seen.status in UNCONFIRMED:\n", "    if False:\n"),),
        (
            f"{TEST_GUARD}::test_a_zombie_of_the_lost_time_cannot_submit_any_more",
            "tests/billing/test_reconciliation.py::test_of_a_lost_attempt_is_cancelled_at_once",
        ),
    ),
    Patch(
        "a lost charge that is on its way is not written down beside one that had ended",
        (
            Change(
                FINDING,
                "            _end_older_attempts(account, seen.currency, as_of=as_of)\n",
                "            pass\n",
            ),
        ),
        (f"{TEST_RESTORE}::test_for_the_rest_of_one_that_was_only_reserved_is_found_again",),
    ),
    Patch(
        "what was only reserved is released though an object of it could still move money",
        (
            Change(
                FINDING,
                "        if older.state == State.RESERVED and not _moved_nothing(older, as_of=as_of):\n"
                "            continue\n",
                "",
            ),
        ),
        (
            f"{TEST_RESTORE}::test_after_one_that_was_left_behind_unsubmitted_that_is_cancelled_first",
        ),
    ),
    Patch(
        "a gateway opens though a charge could not be found again",
        (Change(WORKING, "        .exclude(counts__has_key=finding.STILL_LOST)\n", ""),),
        (
            f"{TEST_RESTORE}::test_that_cannot_be_written_down_keeps_all_closed_until_a_person_has_looked",
        ),
    ),
    Patch(
        "a gateway opens before the others are listed",
        (
            Change(
                WORKING,
                "    if not all(_is_listed(paused) for paused in waiting):\n        return 0\n",
                "    waiting = [paused for paused in waiting if _is_listed(paused)]\n",
            ),
        ),
        (f"{TEST_RESTORE}::test_nor_do_they_open_as_long_as_one_of_them_does_not_answer",),
    ),
    Patch(
        "the database lets an attempt go anywhere",
        (
            Change(
                HOW_ATTEMPTS_MOVE,
                "    IF NOT (CASE NEW.state\n",
                "    IF NULL AND NOT (CASE NEW.state\n",
            ),
        ),
        ("tests/billing/test_charge_protocol.py::test_refuses_what_the_protocol_does_not_know",),
    ),
    # --- money that goes back
    Patch(
        "what is left to refund is not looked at under the lock",
        (
            Change(
                REFUND_RESERVING,
                "    account = locks.account_for_update(wanted.account_id)\n",
                "    account = Account.objects.get(pk=wanted.account_id)\n",
            ),
        ),
        (f"{IN_EVERY_ORDER}::test_a_refund_by_hand_and_another_that_is_too_much_with_it",),
    ),
    Patch(
        "a refund is sent again by a new key, without a look at the provider's list",
        (
            Change(
                REFUND_KIND,
                "    return Looked(list(gateway.find_refunds(current.payment.provider_ref)))\n",
                "    return Looked([])\n",
            ),
            Change(REFUND_KIND, "|{current.pk}|refund", "|{uuid.uuid4()}|refund"),
        ),
        (
            f"{TEST_REFUNDS}::test_after_a_lost_reply",
            f"{TEST_REFUNDS}::test_exactly_once_on_a_bad_line",
        ),
    ),
    Patch(
        "a refund's timeout is taken as failed",
        (
            Change(
                REFUND_KIND,
                "    if current.state == State.RESERVED and (is_final or as_of - since >= time_limits.KEY_HOLDS):\n",
                "    if current.state in {State.RESERVED, State.SUBMITTED}:\n",
            ),
        ),
        (
            f"{TEST_REFUNDS}::test_after_a_lost_reply",
            f"{TEST_REFUNDS}::test_a_second_as_long_as_one_is_on_its_way",
        ),
    ),
    Patch(
        "a refund is sent again when its key may be forgotten",
        (
            Change(
                REFUND_TIME_LIMITS,
                "KEY_HOLDS = timedelta(hours=12)",
                "KEY_HOLDS = timedelta(hours=48)",
            ),
        ),
        (f"{TEST_REFUNDS}::test_never_sends_again",),
    ),
    Patch(
        "what was paid back on the provider's pages is not asked about",
        (
            Change(
                REFUND_KIND,
                "                for seen in looked:\n"
                "                    learning.learn_in(current.gateway, seen, as_of=as_of)\n",
                "",
            ),
        ),
        (f"{TEST_REFUNDS}::test_is_found_before_we_send_one_of_our_own",),
    ),
    Patch(
        "a refund that our database had lost is sent again",
        (Change(REFUND_KIND, "is_too_much or _had_lost_one(current, looked)", "is_too_much"),),
        (f"{TEST_REFUNDS}::test_or_lost_by_our_database_it_is_not_sent_a_second_time_unseen",),
    ),
    Patch(
        "what is disputed is paid back as well",
        (
            Change(
                REFUND_RESERVING,
                "gone_minor = reversals.reversed_minor(payment) + disputes.disputed_minor(payment)",
                "gone_minor = reversals.reversed_minor(payment)",
            ),
        ),
        (
            f"{TEST_REFUNDS}::test_what_is_disputed",
            f"{IN_EVERY_ORDER}::test_a_refund_and_a_dispute",
        ),
    ),
    Patch(
        "a refund that is refused gives back credit that went back meanwhile",
        (Change(REFUND_SETTLING, "    return int(lost - found)\n", "    return 0\n"),),
        (
            f"{TEST_REFUNDS}::test_refused_brings_no_credit_back",
            f"{TEST_REFUNDS}::test_sent_back_by_the_bank_it_is_theirs_only_as_far_as_it_was_a_gift",
            f"{IN_EVERY_ORDER}::test_a_refund_and_the_reversal_of_its_payment",
        ),
    ),
    Patch(
        "a refund that is refused gives back credit that was paid back at the provider meanwhile",
        (Change(REFUND_SETTLING, "min(theirs.cost_minor, left_minor)", "min(0, left_minor)"),),
        (f"{TEST_REFUNDS}::test_paid_back_at_the_provider_takes_the_credit_of_one_that_fails",),
    ),
    Patch(
        "a dispute is opened again by each end that is told",
        (
            Change(
                DISPUTES,
                "        if dispute.state == State.INQUIRY:\n            _open",
                "        if True:\n            _open",
            ),
        ),
        (f"{TEST_DISPUTES}::test_that_is_won_brings_the_money_back_but_not_the_fee_and_resumes",),
    ),
    Patch(
        "a dispute does not pause charging",
        (
            Change(
                DISPUTES,
                "    if pauses.open_pause(account.pk, ChargingPause.Reason.DISPUTE) is None:\n",
                "    if False:\n",
            ),
        ),
        (
            f"{TEST_DISPUTES}::test_that_is_opened_takes_the_money_and_the_fee_and_pauses_charging",
            f"{IN_EVERY_ORDER}::test_a_dispute_and_a_charge_by_itself",
        ),
    ),
    Patch(
        "a lost dispute lets charging go on when another one is won",
        (
            Change(
                DISPUTES,
                "        or others.filter(state=State.LOST, closed_at__gte=paused.paused_at).exists()\n",
                "",
            ),
        ),
        (
            f"{TEST_DISPUTES}::test_is_not_resumed_while_any_dispute_is_open_nor_by_winning_beside_a_lost_one",
        ),
    ),
    Patch(
        "a grant takes no tokens",
        (Change(LANES, "    _spend(lane, count, at)\n    return Grant", "    return Grant"),),
        (
            f"{TEST_RACERS}::test_get_together_no_more_than_there_is",
            f"{TEST_LANES}::test_gives_no_more_than_rate_times_time_and_the_burst",
        ),
    ),
    Patch(
        "a dead worker's leases count as in flight for ever",
        (
            Change(
                ATTEMPT_KIND,
                "provider=provider, state=Step.State.RUNNING, lease_until__gt=Now()",
                "provider=provider, state=Step.State.RUNNING",
            ),
        ),
        (f"{TEST_CLAIMING}::test_counts_no_lease_that_has_run_out",),
    ),
    Patch(
        "an open breaker lets everybody probe",
        (Change(LANES, "    breaker.begin_probe(lane, at)\n", ""),),
        (f"{TEST_RACERS}::test_make_one_probe",),
    ),
    Patch(
        "a row that is dispatched takes its token twice",
        (
            Change(
                DISPATCHER_CLAIMS,
                "    granted = lanes.grant(",
                "    lanes.grant(provider, wanted=1)\n    granted = lanes.grant(",
            ),
        ),
        (f"{TEST_DISPATCHER}::test_spends_one_token_for_each_row",),
    ),
    Patch(
        "a customer's own payment waits for its turn in the lane",
        (Change(DISPATCHER_CLAIMS, "is_urgent=is_urgent\n    )", "is_urgent=False\n    )"),),
        (
            f"{TEST_DISPATCHER}::test_lets_a_person_go_on_where_its_rate_is_used_up_and_is_owed_the_token",
            "tests/billing/test_throttle.py::test_pays_before_the_batch_which_waits_for_that",
        ),
    ),
    Patch(
        "a halt holds nothing back but the batch's steps",
        (Change("billing/tasks.py", "            at_least=charges.CUSTOMERS_OWN,\n", ""),),
        ("tests/billing/test_halting.py::test_lets_a_customer_pay_and_nobody_else",),
    ),
    Patch(
        "an attempt that a step reserved is taken for one that nobody has driven",
        (
            Change(
                "billing/models/payment.py",
                "claims = models.PositiveIntegerField(default=1, db_default=1)",
                "claims = models.PositiveIntegerField(default=0, db_default=1)",
            ),
        ),
        (f"{TEST_PAYMENTS}::test_that_a_step_has_begun_is_looked_for_before_it_is_prepared_again",),
    ),
    Patch(
        "the token of what was not called for is kept",
        (
            Change(
                DISPATCHER_LOOP,
                "lanes.give_back(claimed.granted, unused=len(claimed.rows) - called)",
                "lanes.give_back(claimed.granted, unused=0 * called)",
            ),
        ),
        (f"{TEST_DISPATCHER}::test_gets_back_the_token_of_what_was_not_called_for",),
    ),
    Patch(
        "a row is sent after its claim was lost in the recheck",
        (Change(DISPATCHER_LOOP, "if ours < len(rows):", "if ours > len(rows):"),),
        (f"{TEST_DISPATCHER}::test_before_the_recheck_sends_nothing",),
    ),
    Patch(
        "a row that waits is sent after its claim was lost",
        (Change(DISPATCHER_WINDOW, " or call.row.pk in self._left", ""),),
        (f"{TEST_DISPATCHER}::test_sends_nothing_that_waits_for_its_turn",),
    ),
    Patch(
        "what a provider said is dropped when the claim was lost",
        (Change(DISPATCHER_LOOP, "if not self._kind.always_applies:", "if True:"),),
        (f"{TEST_DISPATCHER}::test_applies_what_the_provider_said_where_a_kind_says_so",),
    ),
    Patch(
        "an answer is written over another worker's claim",
        (Change(DISPATCHER_LOOP, "if not self._kind.always_applies:", "if False:"),),
        (f"{TEST_DISPATCHER}::test_drops_what_the_provider_said_where_a_kind_says_so",),
    ),
    Patch(
        "a parked row is freed by whoever looks",
        (
            Change(
                DISPATCHER_CLAIMS,
                "kind.due(as_of=as_of).filter(FREE, parked_at=None)",
                "kind.due(as_of=as_of).filter(FREE)",
            ),
        ),
        (f"{TEST_DISPATCHER}::test_is_claimed_by_nobody",),
    ),
    Patch(
        "a row may kill workers for ever",
        (Change(DISPATCHER_CLAIMS, "    _park(kind, suspected)\n", ""),),
        (f"{TEST_DISPATCHER}::test_is_what_has_killed_three_workers",),
    ),
    Patch(
        "a payment goes back each time that it is told",
        (
            Change(
                REVERSALS,
                "    if (before := known.first()) is not None:\n        return before\n",
                '    provider_ref = f"{provider_ref} {known.count()}"\n',
            ),
        ),
        (f"{IN_EVERY_ORDER}::test_a_reversal_and_the_same_again",),
    ),
    Patch(
        "a read that answers begins the age of an unanswered act anew",
        (
            Change(
                PROTOCOL,
                "    return state not in TO_SUBMIT | TO_CANCEL or then not in {None, state}\n",
                "    return True\n",
            ),
        ),
        (
            f"{TEST_PAYMENTS}::test_an_act_that_never_comes_through_is_reviewed_though_every_read_answers",
        ),
    ),
    Patch(
        "a card that is gone is a fault of our set-up",
        (
            Change(
                ATTEMPT_KIND,
                "            case gateways.MethodGone() if attempt.state in charge_protocol.TO_PREPARE:\n",
                "            case ZeroDivisionError():\n",
            ),
        ),
        (f"{TEST_LOST_CARDS}::test_when_it_is_prepared_is_a_decline",),
    ),
    Patch(
        "in a close a card that is gone is a fault of our set-up",
        (
            Change(
                DRIVING,
                "            elif isinstance(answer, gateways.MethodGone) and self._out[attempt] is Call.PREPARE:\n",
                "            elif isinstance(answer, ZeroDivisionError):\n",
            ),
        ),
        (
            f"{TEST_CHARGE_STEP}::test_a_card_that_its_provider_has_no_more_is_a_decline_and_stops_no_other",
        ),
    ),
    Patch(
        "a refused request takes the card away, with the wrong key as well",
        (
            Change(
                STRIPE,
                "                if self._is_gone(spec.token, spec.customer_ref):\n",
                "                if spec.token:\n",
            ),
        ),
        (
            f"{TEST_LOST_CARDS}::test_is_not_every_refusal",
            f"{TEST_LOST_CARDS}::test_a_card_that_is_there_is_not_gone_whatever_is_refused",
        ),
    ),
    Patch(
        "a fault of ours is for ever",
        (
            Change(
                CHARGE_STEP,
                "ended.filter(Q(state=State.SUCCEEDED) | ~Exists(blocked))",
                "ended.filter(Q(state=State.SUCCEEDED) | ~Exists(blocked) | Exists(blocked))",
            ),
        ),
        (
            f"{TEST_CHARGE_STEP}::test_a_fault_of_ours_that_is_mended_is_charged_when_the_step_is_retried",
        ),
    ),
    Patch(
        "what waits to be confirmed is not looked at when it is paid otherwise",
        (
            Change(
                HOLDING,
                "    look_at_waiting_payments(ids, as_of=as_of)\n    open_holds",
                "    open_holds",
            ),
        ),
        (f"{TEST_PAYMENTS}::test_is_cancelled_at_once_when_it_was_paid_another_way",),
    ),
    Patch(
        "the rest of a debit passes by what its close does with a changed balance",
        (
            Change(
                COLLECTING,
                "        only_if_due_minor = attempt.amount_minor\n",
                "        only_if_due_minor = None\n",
            ),
        ),
        (f"{TEST_DEBITS}::test_paid_in_part_is_left_as_its_close_leaves_a_changed_balance",),
    ),
    Patch(
        "one case that raises stops the others",
        (
            Change(
                RETRIES,
                'failed += [error for _, error in bisect.failures(note, claimed, what="cases")]',
                "note(claimed)",
            ),
        ),
        (f"{TEST_RETRIES}::test_when_it_is_charged",),
    ),
    Patch(
        "a provider that says at once is asked at once",
        (Change(GATEWAYS_BASE, "LATEST_SECONDS = 5.0, 3600.0", "LATEST_SECONDS = 0.0, 3600.0"),),
        (f"{TEST_PAYMENTS}::test_a_throttled_call_is_repeated_neither_in_a_loop_nor_after_a_year",),
    ),
    Patch(
        "each sweep begins anew",
        (Change(SWEEPER, "_beginning_with(heartbeats.swept_until(), calling)", "dict(calling)"),),
        (
            f"{TEST_SWEEPER}::test_that_ran_out_of_time_goes_on_where_it_stopped_so_that_each_part_has_its_turn",
        ),
    ),
    Patch(
        "no check asks how long a state lasts",
        (
            Change(
                WAITING_STATES,
                " WHERE w.since < {as_of} - l.lasts",
                " WHERE w.since > {as_of} + l.lasts",
            ),
        ),
        (f"{TEST_WAITING}::test_older_is_told_in_the_queue_by_the_metric_and_by_check_books",),
    ),
    Patch(
        "equal transfers of a statement are one",
        (Change(STATEMENTS, "rows.append((row, seen[entry]))", "rows.append((row, 1))"),),
        (
            f"{TEST_TRANSFERS}::test_equal_ones_of_one_file_are_as_many_payments",
            f"{TEST_TRANSFERS}::test_is_the_greatest_count_of_each_in_any_file",
        ),
    ),
    Patch(
        "a transfer of money that is recorded is booked",
        (
            Change(
                TRANSFERS,
                "    elif doubt := _doubt(transfer, account, entries=entries):\n",
                "    elif doubt := None:\n",
            ),
        ),
        (
            f"{TEST_TRANSFERS}::test_asks_a_person_and_says_so",
            f"{TEST_TRANSFERS}::test_told_again_in_other_words_asks_a_person",
        ),
    ),
    Patch(
        "an invoice number alone books",
        (
            Change(
                TRANSFERS,
                "    named = list(Account.objects.filter(pk__in=by_reference))\n",
                "    by_number = _accounts_of_invoices(row.reference)\n"
                "    named = list(Account.objects.filter(pk__in=by_reference or by_number))\n",
            ),
        ),
        (f"{TEST_TRANSFERS}::test_an_invoice_number_alone_suggests_its_account",),
    ),
    Patch(
        "rejected rows are not kept",
        (Change(FOLLOWING_UP, "    if not rejected.count:\n", "    if rejected.count >= 0:\n"),),
        (
            f"{TEST_IMPORTS}::test_say_the_money_that_they_name",
            f"{TEST_IMPORTS}::test_are_set_aside_with_a_reason_once",
        ),
    ),
    Patch(
        "a line is read to its end, if there is none too",
        (
            Change(
                USAGE_FILES,
                "while line := readline(most + 1):",
                "while line := readline():",
            ),
        ),
        (f"{TEST_IMPORTS}::test_is_refused_before_it_takes_the_memory",),
    ),
    Patch(
        "a mail is true as long as the balance is",
        (
            Change(
                RECHECKS,
                "    if _says_the_same(message, letter):\n",
                "    if standing.due_minor == stated(message):\n",
            ),
        ),
        (f"{TEST_MESSAGES}::test_an_invoice_whose_card_was_removed_promises_no_charge",),
    ),
    Patch(
        "a paused account is told that its card will be charged",
        (
            Change(
                PROSPECTS,
                "            is_paused=pk in paused,\n",
                "            is_paused=pk in paused and False,\n",
            ),
        ),
        (f"{TEST_MESSAGES}::test_an_invoice_of_a_paused_account_promises_no_charge",),
    ),
    Patch(
        "an invoice says that a declined card will be charged",
        (
            Change(
                PROSPECTS,
                "return self.declined is not None and self.declined.created_at >= then",
                "return False",
            ),
        ),
        (f"{TEST_MESSAGES}::test_an_invoice_that_was_declined_meanwhile_says_so",),
    ),
    Patch(
        "who has removed the card is sent to the bank",
        (
            Change(
                DECLINE_WORDS,
                "return reason, advice if is_there else needs_another(attempt)",
                "return reason, advice",
            ),
            Change(
                PAYMENT_FAILED,
                "    if prospect.card is None:\n",
                "    if prospect.card is None and False:\n",
            ),
            Change(
                PAYMENT_FAILED,
                'if prospect.card == attempt.payment_method else ""',
                'if True else ""',
            ),
        ),
        (f"{TEST_MESSAGES}::test_who_has_removed_the_card_is_not_sent_to_the_bank",),
    ),
    Patch(
        "the end of a hold is told to who never heard of it",
        (
            Change(
                HOLD_LIFTED,
                "elif placed is not None and placed.state == State.SENT:",
                "elif True:",
            ),
        ),
        (
            f"{TEST_MESSAGES}::test_nothing_is_told_of_a_hold_that_was_lifted_before_its_mail_went_out",
        ),
    ),
    Patch(
        "a debit is announced though it will be given up",
        (
            Change(
                PROSPECTS,
                '        return "less is due than it asks for"\n',
                "        return None\n",
            ),
        ),
        (f"{TEST_MESSAGES}::test_a_debit_that_will_be_given_up_is_not_announced",),
    ),
    Patch(
        "mail that is put off is given up the same hour",
        (
            Change(
                DELIVERY,
                "return MAX_TRIES if is_put_off else MAX_TRIES_OF_OURS",
                "return MAX_TRIES_OF_OURS",
            ),
        ),
        (f"{TEST_DELIVERY}::test_is_put_off_for_a_day_at_least_before_it_is_given_up",),
    ),
    # --- terms, warnings, holds
    Patch(
        "the days of grace are not given",
        (Change(OUTLOOK, "day + timedelta(days=grace_days)", "day + timedelta(days=0)"),),
        (
            f"{TEST_UNPAID}::test_counts_from_its_delivery",
            f"{TEST_UNPAID}::test_is_a_reminder_a_warning_and_a_hold",
        ),
    ),
    Patch(
        "a warning is no longer waited for",
        (
            Change(
                OUTLOOK,
                "        if grace_days is None:\n            held_from",
                "        if warning is None or warning.sent_at is None or grace_days is None:\n"
                "            held_from",
            ),
        ),
        (f"{TEST_RETRIES}::test_waits_for_the_grace_that_a_delivered_warning_leaves",),
    ),
    Patch(
        "an invoice is past due at the instant of issue",
        (
            Change(
                ISSUING,
                "invoice.due_at = periods.first_instant_after(invoice.due_date, account.time_zone)",
                "invoice.due_at = invoice.issued_at",
            ),
        ),
        (
            f"{TEST_INVOICING}::test_is_past_due_when_that_day_is_over_where_the_account_is",
            f"{TEST_UNPAID}::test_is_a_reminder_a_warning_and_a_hold",
        ),
    ),
    Patch(
        "a due day ends where the server is",
        (
            Change(
                PERIODS,
                "datetime.combine(after, time.min, tzinfo=ZoneInfo(time_zone)).astimezone(UTC)",
                "datetime.combine(after, time.min, tzinfo=UTC)",
            ),
        ),
        (f"{TEST_INVOICING}::test_is_past_due_when_that_day_is_over_where_the_account_is",),
    ),
    Patch(
        "small change is overdue",
        (Change(STANDING, "late.due_minor >= least.amount_minor", "late.due_minor > 0"),),
        (
            f"{TEST_UNPAID}::test_is_not_overdue_whatever_card_is_on_file",
            f"{TEST_UNPAID}::test_that_is_overdue_beside_what_is_not_due_yet_holds_nobody",
        ),
    ),
    Patch(
        "who is to be charged by the close is overdue before",
        (Change(PAST_DUE, "charge.kind = '{step_kinds.CHARGE}'", "charge.kind = ''"),),
        (
            f"{TEST_HOLD}::test_of_a_month_is_not_placed_for_the_next_months_invoice_before_its_charge",
            f"{TEST_UNPAID}::test_an_account_is_not_overdue_before_its_own_close_has_charged_it",
        ),
    ),
    Patch(
        "who is tried another day is overdue",
        (
            Change(
                STANDING,
                "return 0 if self.is_tried_again else self.past_due_minor",
                "return self.past_due_minor",
            ),
        ),
        (f"{TEST_UNPAID}::test_whose_card_is_tried_another_day",),
    ),
    Patch(
        "nobody goes on when the close has ended",
        (Change(SWEEPER, '        "follow_ups": lambda: unpaid.follow_up(as_of=as_of),\n', ""),),
        (f"{TEST_UNPAID}::test_goes_on_when_a_close_has_ended",),
    ),
    Patch(
        "what waits with the card before stays",
        (
            Change(
                RECHECKING,
                "return ANOTHER_CARD if waits and replaced else None",
                "return None if waits and replaced else None",
            ),
        ),
        (f"{TEST_ANOTHER_CARD}::test_is_cancelled_first",),
    ),
    Patch(
        "asked again seconds after a no at the bank",
        (
            Change(
                CHARGE_STEP,
                "for each in (*refused, *unheard.order_by",
                "for each in (*refused.none(), *unheard.order_by",
            ),
        ),
        (f"{TEST_ANOTHER_CARD}::test_is_the_closes_answer_too",),
    ),
)
