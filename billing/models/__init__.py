from billing.models.account_closure import AccountClosure
from billing.models.billing_period import BillingPeriod
from billing.models.catalog import Price, Product
from billing.models.claim_marker import ClaimMarker
from billing.models.close import CloseRun, Step
from billing.models.credit_grant import CreditGrant
from billing.models.decision import Decision
from billing.models.dispute import Dispute
from billing.models.dunning_case import DunningCase
from billing.models.executor import Contribution, Executor, Sweep
from billing.models.follow_up import FollowUp
from billing.models.gateway_guard import GatewayGuard
from billing.models.halt import Halt
from billing.models.incoming_transfer import (
    BankStatement,
    IncomingTransfer,
    RepeatedTransfer,
)
from billing.models.invoice import Allocation, Invoice, LineItem, NumberSeries
from billing.models.least_amount import LeastAmount
from billing.models.ledger import LedgerAccount, LedgerEntry, Posting
from billing.models.payment import Payment, PaymentAttempt, ProviderRecord
from billing.models.payment_reversal import PaymentReversal
from billing.models.provider_event import ProviderEvent
from billing.models.reconciliation import ListedObject, Reconciliation
from billing.models.reconciliation_break import ReconciliationBreak
from billing.models.refund import Refund
from billing.models.restore import Restore
from billing.models.run_progress import RunProgress
from billing.models.usage import (
    RejectedRow,
    UntalliedUsage,
    UsageBatch,
    UsageEvent,
    UsageSummary,
)

__all__ = [
    "AccountClosure",
    "Allocation",
    "BankStatement",
    "BillingPeriod",
    "ClaimMarker",
    "CloseRun",
    "Contribution",
    "CreditGrant",
    "Decision",
    "Dispute",
    "DunningCase",
    "Executor",
    "FollowUp",
    "GatewayGuard",
    "Halt",
    "IncomingTransfer",
    "Invoice",
    "LeastAmount",
    "LedgerAccount",
    "LedgerEntry",
    "LineItem",
    "ListedObject",
    "NumberSeries",
    "Payment",
    "PaymentAttempt",
    "PaymentReversal",
    "Posting",
    "Price",
    "Product",
    "ProviderEvent",
    "ProviderRecord",
    "Reconciliation",
    "ReconciliationBreak",
    "Refund",
    "RejectedRow",
    "RepeatedTransfer",
    "Restore",
    "RunProgress",
    "Step",
    "Sweep",
    "UntalliedUsage",
    "UsageBatch",
    "UsageEvent",
    "UsageSummary",
]
