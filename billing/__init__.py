"""
The money. A month, in the order it happens:

    usage/imports/  usage files become events, once
    usage/          tallying: events become summaries; their partitions and billing periods
    close/          a run, its steps, and the workers' engine that claims, retries and heals them
    pricing/        what usage costs
    invoices/       summaries become drafts, then numbered invoices; credit is granted and used
    payments/       charges: reserve → prepare → recheck → submit → settle; refunds, disputes, transfers
    dunning/        cases of declined cards, and holds
    ledger/         what each event books, the one writer, and what an account owes
    messages/       what customers are told, and the recheck before it is sent
    reports/        did we collect the money yet?
    reconciliation/ the providers' books compared with ours
    books/          do the books agree?

Below them: gateways/ (the providers), workers/ (doorbell, heartbeats, halts), locks (the one order of row
locks), decisions (what was decided, and why), models/. Above them: admin/, views/, api/, management/.
"""
