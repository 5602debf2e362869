"""
The table of states that wait, and how long each may.

A query lists all rows in the state: which, whose, since when, where it stands in words, why, and who looks after it
where the row itself says so. An age counts from when the state began, and nothing that goes on in it begins the age
anew: neither a try, nor an answer that changes nothing.
"""

from dataclasses import dataclass
from datetime import timedelta

HOURS, DAYS = timedelta(hours=1), timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Wait:
    """A state that waits."""

    # Letters and underlines: part of a promise's name, and a label of the metric.
    kind: str
    # One of it, as a sentence begins.
    title: str
    limit: timedelta
    # What a person does about it.
    advice: str
    # The model whose page in the admin shows it; empty: there is none.
    page: str
    # ref, account_id, since, stands, because, owner.
    query: str


def _attempts(since: str, where: str, *, owner: str = "''") -> str:
    return f"""
SELECT id::text AS ref, account_id, {since} AS since, state AS stands, because, {owner} AS owner
  FROM billing_paymentattempt WHERE {where}"""


def _refunds(*states: str) -> str:
    listed = ", ".join(f"'{state}'" for state in states)
    return f"""
SELECT id::text AS ref, account_id, coalesce(unknown_since, first_submitted_at, requested_at) AS since,
       state AS stands, because, '' AS owner
  FROM billing_refund WHERE state IN ({listed})"""


def _pauses(since: str, where: str) -> str:
    return f"""
SELECT p.id::text AS ref, p.account_id, {since} AS since, p.reason AS stands, p.because, '' AS owner
  FROM accounts_chargingpause p
  LEFT JOIN (SELECT account_id, max(closed_at) AS decided_at, bool_or(closed_at IS NULL) AS is_open
               FROM billing_dispute GROUP BY account_id) d USING (account_id)
 WHERE p.resumed_at IS NULL AND {where}"""


# An attempt is committed before anybody drives it, with the time from which another may.
BEGAN = "coalesce(submitted_at, least(created_at, next_action_at))"

WAITS = (
    Wait(
        kind="charge_unanswered",
        title="Charge without an answer",
        # A day of asking, and then it is in review.
        limit=26 * HOURS,
        advice="Look at the provider's own pages, and whether anybody sweeps.",
        page="billing_paymentattempt",
        query=_attempts(
            f"coalesce(unknown_since, CASE state WHEN 'CANCELING' THEN next_action_at ELSE {BEGAN} END)",
            "(state IN ('RESERVED', 'SUBMITTED', 'CANCELING')"
            " OR (state = 'PREPARED' AND charge_date IS NULL))",
        ),
    ),
    Wait(
        kind="charge_unconfirmed",
        title="Charge that its customer has to confirm",
        # They have 72 hours; then it is cancelled.
        limit=3 * DAYS + 2 * HOURS,
        advice="It is given up after 72 hours: whether anybody sweeps, and whether the provider cancels it.",
        page="billing_paymentattempt",
        query=_attempts(BEGAN, "state = 'REQUIRES_ACTION'"),
    ),
    Wait(
        kind="charge_processing",
        title="Charge that its provider has in hand",
        limit=3 * DAYS,
        advice="Cards are answered at once, as a rule: ask the provider what keeps it.",
        page="billing_paymentattempt",
        query=_attempts(BEGAN, "state = 'PROCESSING' AND charge_date IS NULL"),
    ),
    Wait(
        kind="debit_processing",
        title="Direct debit at the bank",
        limit=14 * DAYS,
        advice="Banks take a few days: ask the provider what keeps it.",
        page="billing_paymentattempt",
        query=_attempts(BEGAN, "state = 'PROCESSING' AND charge_date IS NOT NULL"),
    ),
    Wait(
        kind="debit_not_collected",
        title="Direct debit whose day has come",
        limit=2 * DAYS,
        advice="It should be at the bank: look at why it was not sent.",
        page="billing_paymentattempt",
        query=_attempts(
            f"greatest({BEGAN}, charge_date::timestamp AT TIME ZONE 'UTC')",
            "state = 'PREPARED' AND charge_date IS NOT NULL",
        ),
    ),
    Wait(
        kind="charge_review",
        title="Charge in review",
        limit=1 * HOURS,
        advice="Look at the provider's own pages, then resolve it. No other charge starts on the account before.",
        page="billing_paymentattempt",
        query=_attempts(
            "coalesce(unknown_since, updated_at)", "state = 'REVIEW'", owner="review_owner"
        ),
    ),
    Wait(
        kind="rest_not_asked_for",
        title="Rest of a charge that nobody has asked for",
        limit=1 * DAYS,
        advice="Its gateway is paused, or something is wrong with the account: see the log of the sweep.",
        page="billing_paymentattempt",
        query=_attempts("next_action_at", "state = 'RELEASED' AND next_action_at IS NOT NULL"),
    ),
    Wait(
        kind="rest_left_to_a_person",
        title="Rest of a charge that its close leaves to a person",
        limit=1 * DAYS,
        advice="The balance has changed after the close: charge what is due now, or leave it to the next one.",
        page="billing_paymentattempt",
        query="""
SELECT a.id::text AS ref, a.account_id, a.unknown_since AS since, a.state AS stands, a.because, '' AS owner
  FROM billing_paymentattempt a
 WHERE a.state = 'RELEASED' AND a.unknown_since IS NOT NULL
   AND a.because = 'the balance has changed: a person decides'
   AND EXISTS (SELECT FROM billing_invoice i
                WHERE i.account_id = a.account_id AND i.state = 'ISSUED' AND i.settled_at IS NULL)
   AND NOT EXISTS (SELECT FROM billing_paymentattempt b
                    WHERE b.account_id = a.account_id AND b.created_at > a.created_at)""",
    ),
    Wait(
        kind="dunning_past_its_end",
        title="Dunning case past its end",
        limit=7 * DAYS,
        advice="What keeps it from being held, or closed, is not the customer: a payment on its way, a pause,"
        " or a fault of ours.",
        page="billing_dunningcase",
        query="""
SELECT d.id::text AS ref, d.account_id,
       greatest(d.opened_at + coalesce(e.retry_days[array_upper(e.retry_days, 1)], 1) * interval '1 day',
                (SELECT min(i.due_at) FROM billing_invoice i
                  WHERE i.account_id = d.account_id AND i.state = 'ISSUED' AND i.settled_at IS NULL)) AS since,
       d.decline_class AS stands, d.decline_code AS because, '' AS owner
  FROM billing_dunningcase d
  JOIN accounts_account a ON a.id = d.account_id
  JOIN accounts_billingentity e ON e.id = a.entity_id
 WHERE d.closed_at IS NULL""",
    ),
    Wait(
        kind="step_unknown",
        title="Step of a close whose end is unknown",
        limit=26 * HOURS,
        advice="Look at its payment, and at what its worker logged.",
        page="billing_step",
        query="""
SELECT id::text AS ref, account_id, unknown_since AS since, kind AS stands, because, '' AS owner
  FROM billing_step WHERE state = 'UNKNOWN' AND unknown_since IS NOT NULL""",
    ),
    Wait(
        kind="message_unsent",
        title="Message that is not sent",
        limit=2 * DAYS,
        advice="Look at its last error, at the mail server, and at whether a cluster serves its queue.",
        page="notifications_message",
        query="""
SELECT id::text AS ref, account_id, created_at AS since, kind AS stands, last_error AS because, '' AS owner
  FROM notifications_message WHERE state IN ('QUEUED', 'SENDING') AND parked_at IS NULL""",
    ),
    Wait(
        kind="message_parked",
        title="Message that has killed its worker",
        limit=1 * HOURS,
        advice="Look at what is special about it, then retry it: it is tried once more, alone.",
        page="notifications_message",
        query="""
SELECT id::text AS ref, account_id, parked_at AS since, kind AS stands, last_error AS because, '' AS owner
  FROM notifications_message WHERE parked_at IS NOT NULL AND state = 'SENDING'""",
    ),
    Wait(
        kind="transfer_unmatched",
        title="Bank transfer that nobody has assigned",
        limit=3 * DAYS,
        advice="Assign it to an account, or say that it was recorded before or is not ours.",
        page="billing_incomingtransfer",
        query="""
SELECT id::text AS ref, suggested_account_id AS account_id, imported_at AS since, state AS stands, because,
       '' AS owner
  FROM billing_incomingtransfer WHERE state = 'WAITING'""",
    ),
    Wait(
        kind="refund_unanswered",
        title="Refund without an answer",
        # Twelve hours of sending it again, and then it is in review.
        limit=14 * HOURS,
        advice="Look at the provider's own pages, and whether anybody sweeps.",
        page="billing_refund",
        query=_refunds("RESERVED", "SUBMITTED"),
    ),
    Wait(
        kind="refund_pending",
        title="Refund that its provider has in hand",
        limit=14 * DAYS,
        advice="Banks take up to ten days: ask the provider what keeps it.",
        page="billing_refund",
        query=_refunds("PENDING"),
    ),
    Wait(
        kind="refund_review",
        title="Refund in review",
        limit=1 * HOURS,
        advice="Look at the provider's own pages, then resolve it. No other of its payment starts before.",
        page="billing_refund",
        query=_refunds("REVIEW"),
    ),
    Wait(
        kind="dispute_unanswered",
        title="Dispute that wants an answer",
        limit=3 * DAYS,
        advice="Hand in evidence on the provider's pages, while that is possible.",
        page="billing_dispute",
        query="""
SELECT id::text AS ref, account_id, opened_at AS since, state AS stands, reason AS because, '' AS owner
  FROM billing_dispute
 WHERE state IN ('INQUIRY', 'NEEDS_RESPONSE') AND closed_at IS NULL AND evidence_due_at IS NOT NULL""",
    ),
    Wait(
        kind="pause_for_a_dispute",
        title="Account that is not charged, for a dispute",
        # Banks decide within a quarter of a year.
        limit=100 * DAYS,
        advice="Ask the provider what became of the dispute.",
        page="accounts_chargingpause",
        query=_pauses("p.paused_at", "p.reason = 'DISPUTE' AND coalesce(d.is_open, false)"),
    ),
    Wait(
        kind="pause_after_a_dispute",
        title="Account that is not charged, though its dispute is decided",
        limit=7 * DAYS,
        advice="Decide whether to charge it again, and resume it on its page; or agree with the customer how they pay.",
        page="accounts_chargingpause",
        query=_pauses(
            "coalesce(d.decided_at, p.paused_at)",
            "p.reason = 'DISPUTE' AND NOT coalesce(d.is_open, false)",
        ),
    ),
    Wait(
        kind="pause_by_hand",
        title="Account that somebody has paused",
        limit=90 * DAYS,
        advice="Ask whoever paused it whether that still holds.",
        page="accounts_chargingpause",
        query=_pauses("p.paused_at", "p.reason <> 'DISPUTE'"),
    ),
    Wait(
        kind="event_not_processed",
        title="Event of a provider that is not worked on",
        limit=1 * DAYS,
        advice="Its last error says why. After three days it is given up.",
        page="",
        query="""
SELECT id::text AS ref, NULL::bigint AS account_id, received_at AS since, type AS stands, error AS because, '' AS owner
  FROM billing_providerevent WHERE next_try_at IS NOT NULL AND outcome = 'WAITING'""",
    ),
    Wait(
        kind="break_open",
        title="Break that nobody has settled",
        limit=7 * DAYS,
        advice="Mend what it says, or accept it with a reason.",
        page="billing_reconciliationbreak",
        query="""
SELECT id::text AS ref, account_id, found_at AS since, kind AS stands, words AS because, owner
  FROM billing_reconciliationbreak WHERE state = 'OPEN'""",
    ),
    Wait(
        kind="reconciliation_unfinished",
        title="Reconciliation that does not end",
        limit=1 * DAYS,
        advice="Its row says what stops it.",
        page="billing_reconciliation",
        query="""
SELECT id::text AS ref, NULL::bigint AS account_id, started_at AS since, gateway AS stands, error AS because,
       '' AS owner
  FROM billing_reconciliation WHERE state = 'RUNNING'""",
    ),
    Wait(
        kind="gateway_paused",
        title="Gateway that charges nobody",
        limit=1 * HOURS,
        advice="It opens when its provider has been listed: see the reconciliation.",
        page="billing_gatewayguard",
        query="""
SELECT id::text AS ref, NULL::bigint AS account_id, paused_at AS since, gateway AS stands,
       paused_because AS because, '' AS owner
  FROM billing_gatewayguard WHERE paused_at IS NOT NULL""",
    ),
    Wait(
        kind="lane_shut",
        title="Lane in which nothing begins",
        limit=4 * HOURS,
        advice="Somebody has paused it, or its provider does not answer: resume it, or ask the provider.",
        page="notifications_lane",
        query="""
SELECT id::text AS ref, NULL::bigint AS account_id, least(paused_at, opened_at) AS since, provider AS stands,
       paused_because AS because, paused_by AS owner
  FROM notifications_lane WHERE paused_at IS NOT NULL OR opened_at IS NOT NULL""",
    ),
    Wait(
        kind="halt",
        title="Halt of all workers",
        limit=4 * HOURS,
        advice="Lift it on the page of the runs, or with `manage.py halt --lift`.",
        page="",
        query="""
SELECT id::text AS ref, NULL::bigint AS account_id, ordered_at AS since, 'HALTED' AS stands, because,
       ordered_by AS owner
  FROM billing_halt WHERE lifted_at IS NULL""",
    ),
)

# By kind, in seconds, where WaitingLimit does not say another.
LIMITS = {wait.kind: int(wait.limit.total_seconds()) for wait in WAITS}


def overdue_sql(wait: Wait, *, as_of: str) -> str:
    """List what is older than its limit; `as_of` is an expression. Reads the view `waiting_limits` of `books`."""
    return f"""
SELECT '{wait.kind}' AS kind, w.ref, w.account_id, w.since, w.stands, w.because, w.owner
  FROM ({wait.query}) w
  JOIN books_limits l ON l.kind = '{wait.kind}'
 WHERE w.since < {as_of} - l.lasts"""
