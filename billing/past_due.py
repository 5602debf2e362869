"""What is past due, and of whom it is asked for: the one place that compares a due date with an instant."""

from billing import step_kinds
from billing.models import Step

_OPEN = ", ".join(f"'{state}'" for state in Step.OPEN)
# Of an invoice `i`, as of `%(as_of)s`. Not while the month's own close has still to charge it: whoever is charged
# by us owes us nothing to do before.
PAST_DUE = f"""
       i.state = 'ISSUED' AND i.settled_at IS NULL AND i.due_at <= %(as_of)s
       AND NOT EXISTS (
           SELECT FROM billing_billingperiod own
             JOIN billing_closerun run ON run.entity_id = i.entity_id AND run.month = own.month
             JOIN billing_step charge ON charge.run_id = run.id AND charge.account_id = i.account_id
            WHERE own.id = i.period_id AND charge.kind = '{step_kinds.CHARGE}' AND charge.state IN ({_OPEN}))"""
# Of an account `a`: its card is to be tried another day, so that it is not late meanwhile. Not once it is held.
TRIED_AGAIN = """
       EXISTS (SELECT FROM billing_dunningcase c
                WHERE c.account_id = a.id AND c.closed_at IS NULL AND c.next_try_at IS NOT NULL)
       AND NOT EXISTS (SELECT FROM accounts_hold h
                        WHERE h.account_id = a.id AND h.reason = 'OVERDUE' AND h.lifted_at IS NULL)"""
# Of an account `a`: below this nothing is asked for, in minor units of its currency.
LEAST = """
       coalesce((SELECT l.amount_minor FROM billing_leastamount l
                  WHERE l.currency = a.currency AND (l.entity_id = a.entity_id OR l.entity_id IS NULL)
                  ORDER BY l.entity_id NULLS LAST LIMIT 1), 1)"""
