"""The account at a glance: what it owes as of now, and everything that happened to it, newest first."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import urlencode

from django.db.models import Model, QuerySet
from django.urls import reverse

from accounts.models import RETRIES_MAX, Account, ChargingPause, Hold, PaymentMethod
from billing import decisions, dunning, ledger
from billing.admin.cells import Cell, Table, instant, money, row, to
from billing.ledger import settlement
from billing.models import AccountClosure, Decision, Invoice, PaymentAttempt, UsageSummary
from billing.references import reference_of
from notifications.models import Message

NEWEST = 10
Record = TypeVar("Record", bound=Model)


def overview(account: Account, *, as_of: datetime) -> dict[str, Any]:
    """Everything the account's page shows above its form, as plain values."""
    standing = ledger.standing(account.pk, as_of=as_of)
    currency = standing.currency
    return {
        "id": account.pk,
        "reference": reference_of(account.pk),
        "as_of": instant(as_of),
        "due": money(standing.due_minor, currency),
        "owes": standing.due_minor > 0,
        "overdue": money(standing.uncovered_minor, currency) if standing.uncovered_minor else "",
        "credit": money(standing.credit_minor, currency),
        "in_flight": in_flight(account),
        "dunning": _dunning(account),
        "holds": [_hold(hold) for hold in _open_holds(account)],
        "has_manual_hold": any(h.reason == Hold.Reason.MANUAL for h in _open_holds(account)),
        "pauses": [_pause(pause) for pause in _open_pauses(account)],
        "is_paused_by_hand": any(
            p.reason == ChargingPause.Reason.MANUAL for p in _open_pauses(account)
        ),
        "closure": _closure(account),
        "later": _later_usage(account),
        "tables": [
            _invoices(account, as_of=as_of),
            _decisions(account),
            _timeline(account),
            _attempts(account),
            _cases(account),
            _payments(account),
            _disputes(account),
            _refunds(account),
            _grants(account),
            _holds(account),
            _cards(account, as_of=as_of),
            _messages(account),
            _steps(account),
        ],
    }


def in_flight(account: Account) -> dict[str, str] | None:
    """The charge that is on its way, if one is."""
    attempt = (
        account.attempts.filter(state__in=PaymentAttempt.IN_FLIGHT)
        .select_related("payment_method")
        .first()
    )
    if attempt is None:
        return None
    return {
        "amount": money(attempt.amount_minor, attempt.currency),
        "card": str(attempt.payment_method),
        "since": instant(attempt.created_at),
        "state": attempt.get_state_display(),
        "because": attempt.because,
        "url": reverse("admin:billing_paymentattempt_change", args=[attempt.pk]),
    }


def _dunning(account: Account) -> dict[str, str] | None:
    case = dunning.open_case(account.pk)
    if case is None:
        return None
    return {
        "code": case.decline_code,
        "meaning": case.get_decline_class_display(),
        "retries": f"{case.retries_made} of {RETRIES_MAX}",
        "next_try": instant(case.next_try_at),
        "ends": instant(case.ends_at),
        "url": reverse("admin:billing_dunningcase_change", args=[case.pk]),
    }


def _closure(account: Account) -> dict[str, str] | None:
    """How it was closed, if it is; in the words of an earlier release where that only said so."""
    closure = AccountClosure.objects.standing([account.pk]).select_related("final_invoice").first()
    if closure is None:
        return None
    return {
        "since": instant(closure.closed_at),
        "by": closure.closed_by,
        "because": closure.because,
        "debt": closure.get_debt_display(),
        "credit": closure.get_credit_display(),
        "invoice": str(closure.final_invoice.number) if closure.final_invoice else "",
    }


def _later_usage(account: Account) -> dict[str, Any] | None:
    """What came in after a closed account's final invoice, if something has."""
    later = UsageSummary.objects.filter(account=account, invoice=None)
    if not (AccountClosure.objects.standing([account.pk]).exists() and later.exists()):
        return None
    url = reverse("admin:billing_usagesummary_changelist")
    return {
        "rows": later.count(),
        "url": f"{url}?{urlencode({'q': account.external_id, 'invoice__isempty': 1})}",
    }


def _open_holds(account: Account) -> Iterable[Hold]:
    return account.holds.filter(lifted_at=None).order_by("placed_at")


def _hold(hold: Hold) -> dict[str, Any]:
    placed = hold.decisions.order_by("pk").first()
    return {
        "id": hold.pk,
        "reason": hold.get_reason_display(),
        "since": instant(hold.placed_at),
        "because": placed.because if placed else "",
        "by": placed.actor if placed else "",
    }


def _open_pauses(account: Account) -> Iterable[ChargingPause]:
    return account.pauses.filter(resumed_at=None).order_by("paused_at", "pk")


def _pause(pause: ChargingPause) -> dict[str, Any]:
    return {
        "id": pause.pk,
        "since": instant(pause.paused_at),
        "because": pause.because,
        "by": pause.paused_by,
    }


# --- its tables


def _newest(records: QuerySet[Record], order: str = "-pk") -> Iterable[Record]:
    return records.order_by(order)[:NEWEST]


def _all(model: str, account: Account, field: str = "account") -> str:
    return f"{reverse(f'admin:{model}_changelist')}?{field}__id__exact={account.pk}"


def _invoices(account: Account, *, as_of: datetime) -> Table:
    invoices = list(_newest(account.invoices.select_related("period")))
    dues = settlement.dues(invoices)
    written_off = settlement.written_off(invoice.pk for invoice in invoices)
    return Table(
        "Invoices",
        ("Number", "Period", "Total", "Still due", "Due on", "State"),
        [
            row(
                to(invoice),
                str(invoice.period),
                money(invoice.total_minor, invoice.currency),
                money(max(dues[invoice.pk], 0), invoice.currency),
                instant(invoice.due_at),
                _invoice_state(invoice, is_written_off=invoice.pk in written_off, as_of=as_of),
            )
            for invoice in invoices
        ],
        empty="No invoice yet.",
        more_url=_all("billing_invoice", account),
    )


def _invoice_state(invoice: Invoice, *, is_written_off: bool, as_of: datetime) -> Cell:
    if invoice.is_draft:
        return Cell("Draft")
    if invoice.settled_at is not None:
        return Cell("Written off", tone="warn") if is_written_off else Cell("Settled", tone="good")
    return Cell("Overdue", tone="bad") if invoice.is_overdue(as_of) else Cell("Due", tone="warn")


def _decisions(account: Account) -> Table:
    return Table(
        "Decisions",
        ("When", "Act", "Expected", "Saw", "Did", "Because", "By"),
        [
            row(
                to(decision, instant(decision.decided_at)),
                decision.act,
                decisions.in_words(decision.expected) or "–",
                Cell(
                    decisions.in_words(decision.saw) or "–",
                    tone="warn" if decision.world_changed else "",
                ),
                _did(decision),
                decision.because,
                decision.actor,
            )
            for decision in _newest(account.decisions.all())
        ],
        empty="Nothing was decided about this account yet.",
        more_url=_all("billing_decision", account),
    )


def _did(decision: Decision) -> Cell:
    tones = {Decision.Did.DONE: "good", Decision.Did.BLOCKED: "bad", Decision.Did.DEAD: "bad"}
    return Cell(decision.get_did_display(), tone=tones.get(Decision.Did(decision.did), ""))


def _timeline(account: Account) -> Table:
    return Table(
        "Timeline",
        ("When", "What", "By"),
        [
            row(to(event, instant(event.happened_at)), event.summary, event.actor)
            for event in _newest(account.timeline.all())
        ],
        empty="Nothing happened yet.",
        more_url=_all("accounts_timelineevent", account),
    )


def _attempts(account: Account) -> Table:
    attempts = account.attempts.select_related("payment_method")
    return Table(
        "Charges tried",
        ("When", "Amount", "Card", "State", "Decline code", "Because"),
        [
            row(
                to(attempt, instant(attempt.created_at)),
                money(attempt.amount_minor, attempt.currency),
                str(attempt.payment_method),
                _attempt_state(attempt),
                attempt.decline_code or "–",
                attempt.because or "–",
            )
            for attempt in _newest(attempts, "-created_at")
        ],
        empty="No card was charged yet.",
        more_url=_all("billing_paymentattempt", account),
    )


def _attempt_state(attempt: PaymentAttempt) -> Cell:
    tone = "warn" if attempt.is_in_flight else ATTEMPT_TONES.get(attempt.state, "")
    return Cell(attempt.get_state_display(), tone=tone)


ATTEMPT_TONES: dict[str, str] = {
    PaymentAttempt.State.SUCCEEDED: "good",
    PaymentAttempt.State.FAILED: "bad",
}


def _cases(account: Account) -> Table:
    return Table(
        "Dunning",
        ("Opened", "Last decline", "Retries", "Next try", "Ends", "Closed", "Because"),
        [
            row(
                to(case, instant(case.opened_at)),
                case.decline_code,
                str(case.retries_made),
                instant(case.next_try_at),
                instant(case.ends_at),
                instant(case.closed_at) if case.closed_at else Cell("Open", tone="warn"),
                case.closed_because or "–",
            )
            for case in _newest(account.dunning_cases.all())
        ],
        empty="Every charge went through at once.",
        more_url=_all("billing_dunningcase", account),
    )


def _payments(account: Account) -> Table:
    return Table(
        "Payments",
        ("Received", "Amount", "By", "Reason", "Recorded by"),
        [
            row(
                to(payment, instant(payment.received_at)),
                money(payment.amount_minor, payment.currency),
                payment.method,
                payment.reason or "–",
                payment.recorded_by,
            )
            for payment in _newest(account.payments.all())
        ],
        empty="No money was received yet.",
        more_url=_all("billing_payment", account),
    )


def _disputes(account: Account) -> Table:
    return Table(
        "Disputes",
        ("Opened", "Payment", "Amount", "Fee", "State", "Evidence until"),
        [
            row(
                to(dispute, instant(dispute.opened_at)),
                to(dispute.payment),
                money(dispute.amount_minor, dispute.currency),
                money(dispute.fee_minor, dispute.currency),
                Cell(dispute.get_state_display(), tone=DISPUTE_TONES.get(dispute.state, "")),
                instant(dispute.evidence_due_at),
            )
            for dispute in _newest(account.disputes.select_related("payment"))
        ],
        empty="No payment was disputed.",
        more_url=_all("billing_dispute", account),
    )


DISPUTE_TONES: dict[str, str] = {"NEEDS_RESPONSE": "bad", "WON": "good", "INQUIRY": "warn"}


def _refunds(account: Account) -> Table:
    return Table(
        "Refunds",
        ("Requested", "Amount", "To", "State", "Because", "Reason", "By"),
        [
            row(
                to(refund, instant(refund.requested_at)),
                money(refund.amount_minor, refund.currency),
                str(refund.payment),
                refund.get_state_display(),
                refund.because or "–",
                refund.reason,
                refund.requested_by,
            )
            for refund in _newest(account.refunds.select_related("payment"), "-requested_at")
        ],
        empty="Nothing was paid back yet.",
        more_url=_all("billing_refund", account),
    )


def _grants(account: Account) -> Table:
    return Table(
        "Credit",
        ("Granted", "Kind", "Amount", "Unused", "Can be used until", "Reason", "By"),
        [
            row(
                to(grant, instant(grant.granted_at)),
                grant.get_kind_display(),
                money(grant.amount_minor, grant.currency),
                money(grant.remaining_minor, grant.currency),
                instant(grant.expires_at),
                grant.reason,
                grant.granted_by,
            )
            for grant in _newest(account.grants.all())
        ],
        empty="No credit was given yet.",
        more_url=_all("billing_creditgrant", account),
    )


def _holds(account: Account) -> Table:
    return Table(
        "Holds",
        ("Placed", "Reason", "Lifted"),
        [
            row(
                to(hold, instant(hold.placed_at)),
                hold.get_reason_display(),
                instant(hold.lifted_at) if hold.lifted_at else Cell("Open", tone="bad"),
            )
            for hold in _newest(account.holds.all())
        ],
        empty="It was never held.",
    )


def _cards(account: Account, *, as_of: datetime) -> Table:
    return Table(
        "Cards",
        ("Card", "Good until", "State", "Because"),
        [
            row(
                to(card),
                Cell(card.good_until, tone="bad" if card.has_expired(as_of) else ""),
                _card_state(card),
                card.blocked_because or "–",
            )
            for card in _newest(account.payment_methods.all())
        ],
        empty="There is no card.",
    )


def _card_state(card: PaymentMethod) -> Cell:
    if card.is_default:
        return Cell("Default", tone="good")
    is_blocked = card.state == PaymentMethod.State.BLOCKED
    return Cell(card.get_state_display(), tone="bad" if is_blocked else "")


def _messages(account: Account) -> Table:
    return Table(
        "Messages",
        ("Written", "Subject", "To", "State", "Because"),
        [
            row(
                to(message, instant(message.created_at)),
                message.subject,
                message.recipient,
                _message_state(message),
                message.because or "–",
            )
            for message in _newest(account.messages.all(), "-created_at")
        ],
        empty="Nobody was written to yet.",
        more_url=_all("notifications_message", account),
    )


def _message_state(message: Message) -> Cell:
    tones = {Message.State.SENT: "good", Message.State.DEAD: "bad"}
    return Cell(message.get_state_display(), tone=tones.get(Message.State(message.state), ""))


def _steps(account: Account) -> Table:
    return Table(
        "Steps of close runs",
        ("Run", "Step", "State", "Because", "Tries"),
        [
            row(
                Cell(str(step.run), url=reverse("run", args=[step.run_id])),
                to(step, step.title),
                Cell(step.get_state_display(), tone=STEP_TONES.get(step.state, "")),
                step.because or "–",
                str(step.attempts),
            )
            for step in _newest(account.steps.select_related("run__entity"))
        ],
        empty="No close has included it yet.",
        more_url=_all("billing_step", account),
    )


STEP_TONES: dict[str, str] = {"DONE": "good", "BLOCKED": "bad", "DEAD": "bad"}
