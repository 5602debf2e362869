"""
The money. A month, in the order it happens:

    imports/      usage files become events, once                   metering.py   events become summaries
    close/        a run, its steps, who works on them, who heals    locks.py      every row lock, one order
    invoicing.py  summaries become numbered, final invoices         pricing/      what usage costs
    credits.py    credit is granted, used oldest first, expired     settlement.py money meets what is owed
    payments/     reserve → prepare → recheck → submit → settle     gateways/     the providers
    dunning.py    cases of declined cards, and holds                retries.py    tries them again, then holds
    ledger.py     the one writer of the books                       decisions.py  what was decided, and why
    messages.py   what customers are told                           inbound.py    what providers tell us
    guard.py      charging pauses after a restore                   reconciliation/ their books against ours
    reports/      did we collect the money yet?                     books/        and do the books agree?
"""
