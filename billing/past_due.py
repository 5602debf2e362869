"""Which invoices are past due: the one place that compares a due date with an instant."""

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
