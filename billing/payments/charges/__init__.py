"""
Receive money exactly once: reserve → prepare → recheck → submit → settle.

    reserve   transaction: lock the account, read what is due now, write the attempt down
    prepare   no transaction: the provider makes an object that carries no money yet; its id is stored
    recheck   transaction: lock again; is it still due, is the card still there? else give up
    submit    no transaction: the provider may move the money, once for this object
    settle    transaction: what the provider says becomes payment, ledger, receipt, lifted hold

Every phase works on many attempts at once. Those of a close are driven by its charge steps (`driving`), all
others by the dispatcher (`attempt_kind`): a customer's own payment, support's, dunning's, and what a worker that died
has left. A phase that does not get through leaves the attempt where it is, and it is gone on with from there,
in any process, after asking the provider. An attempt is given up only when the provider says it is cancelled.
The protocol, its crash matrix and its proof: docs/payments.md. A phase is a module:

    collecting.py  the acts              calls.py       the provider, called       ../booking.py  money in
    reserving.py   T1                    preparing.py   T2                       reviewing.py   a person looks
    rechecking.py  T3                    settling.py    T4 and T5                  drivers.py     one driver at a time
    attempt_kind.py  the dispatcher's      driving.py     the phases of a close's
"""

from billing.payments.charges.amounts import chargeable_minor
from billing.payments.charges.calls import spec
from billing.payments.charges.collecting import (
    Collector,
    ask,
    begin,
    begin_authentication,
    begin_each,
    collect_the_rest,
    free_parked,
    hurry,
)
from billing.payments.charges.debits import on_its_way, waits_for_its_day
from billing.payments.charges.rechecking import give_up
from billing.payments.charges.refusals import (
    AccountClosed,
    AccountPaused,
    AttemptInFlight,
    BalanceChanged,
    CannotCollect,
    GatewayClosed,
    NoPaymentMethod,
    NothingDue,
)
from billing.payments.charges.reserving import CUSTOMERS_OWN, Collected, Request
from billing.payments.charges.reviewing import NotInReview, resolve_review, take_review
from billing.payments.charges.settling import apply_provider_state
from billing.payments.charges.time_limits import may_confirm_until

__all__ = [
    "CUSTOMERS_OWN",
    "AccountClosed",
    "AccountPaused",
    "AttemptInFlight",
    "BalanceChanged",
    "CannotCollect",
    "Collected",
    "Collector",
    "GatewayClosed",
    "NoPaymentMethod",
    "NotInReview",
    "NothingDue",
    "Request",
    "apply_provider_state",
    "ask",
    "begin",
    "begin_authentication",
    "begin_each",
    "chargeable_minor",
    "collect_the_rest",
    "free_parked",
    "give_up",
    "hurry",
    "may_confirm_until",
    "on_its_way",
    "resolve_review",
    "spec",
    "take_review",
    "waits_for_its_day",
]
