"""
The money. A month, in the order it happens:

    usage/imports/  usage files become events, once
    usage/          the tally: events become summaries of a billing period
    close/          a run and its steps; the engine that claims, ends and retries them; the sweeper that heals
    invoices/       rating, drafts, numbered invoices; credit is granted and used
    payments/       charges: reserve → prepare → recheck → submit → settle; refunds, disputes, transfers
    dunning/        cases of declined cards, and holds
    messages/       what customers are told, and the recheck before it is sent
    reports/        did we collect the money yet?
    reconciliation/ each provider's book compared with ours
    books/          do the books agree?

They all use: ledger/ (what each event books, and what an account owes), pricing/ (what a quantity costs),
gateways/ (the providers), workers/ (doorbell, heartbeats, halt), locks (the one order of row locks),
decisions (what was decided, and why), models/, charge_protocol and money. Above them: admin/, views/, api/,
management/, tasks. docs/architecture.md has the layers; billing/close/pipeline.py is where to read on.
"""
