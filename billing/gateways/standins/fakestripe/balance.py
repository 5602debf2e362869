"""Balance transactions, and the payouts that gather them."""

from billing.gateways.standins.fakestripe import currencies, events
from billing.gateways.standins.fakestripe.book import Book
from billing.gateways.standins.fakestripe.errors import Object, refused
from billing.gateways.standins.fakestripe.params import LISTING, text
from billing.gateways.standins.fakestripe.routes import route

# Until a charge can be paid out.
PENDING_SECONDS = 2 * 86_400
# 2.9 % + 30, in tenths of a percent and minor units of any currency.
FEE_PER_MILLE, FEE_FIXED = 29, 30


@route("GET", "/v1/balance_transactions/{id}")
def retrieve(book: Book, params: Object, ref: str) -> Object:
    """One movement of the balance."""
    return book.get("balance_transaction", ref)


@route(
    "GET",
    "/v1/balance_transactions",
    {**LISTING, "type": text, "payout": text, "source": text, "currency": text},
)
def listed(book: Book, params: Object) -> Object:
    """Movements of the balance, newest first: of a type, or of a payout."""
    equal = {name: params.get(name) for name in ("type", "source", "currency")}
    return {"page": book.page("balance_transaction", params, _payout=params.get("payout"), **equal)}


@route("GET", "/v1/payouts/{id}")
def retrieve_payout(book: Book, params: Object, ref: str) -> Object:
    """One payout."""
    return book.get("payout", ref, param="payout")


@route("GET", "/v1/payouts", {**LISTING, "status": text})
def listed_payouts(book: Book, params: Object) -> Object:
    """Payouts, newest first."""
    return {"page": book.page("payout", params, status=params.get("status"))}


def fee(amount: int) -> int:
    """What Stripe keeps of a charge, rounded half up."""
    return (amount * FEE_PER_MILLE + 500) // 1000 + FEE_FIXED


def enter(
    book: Book, kind: str, source: Object, amount: int, *, fee: int = 0, at_once: bool = False
) -> Object:
    """Move the balance."""
    details = [{"amount": fee, "currency": source["currency"], "type": "stripe_fee"}] if fee else []
    return book.add(
        "txn",
        "balance_transaction",
        amount=amount,
        available_on=book.now + (0 if at_once else PENDING_SECONDS),
        currency=source["currency"],
        description=None,
        exchange_rate=None,
        fee=fee,
        fee_details=details,
        net=amount - fee,
        reporting_category="dispute" if kind == "adjustment" else kind,
        source=source["id"],
        status="pending",
        type=kind,
        _payout=None,
    )


def pay_out(book: Book, currency: str) -> Object:
    """
    Pay out what is available in a currency.

    :raises ApiError: if that is nothing.
    """
    gathered = book.select(
        "balance_transaction",
        "json_extract(body, '$.currency') = ? AND json_extract(body, '$._payout') IS NULL"
        " AND json_extract(body, '$.available_on') <= ?",
        currency,
        book.now,
    )
    total = sum(entry["net"] for entry in gathered)
    # What a currency cannot express stays in the balance.
    amount = total - (total % 100 if currency in currencies.PAID_OUT_WHOLE else 0)
    if amount <= 0:
        raise refused(f"Nothing is available in {currency}.", code="balance_insufficient")
    payout = book.add(
        "po",
        "payout",
        amount=amount,
        arrival_date=book.now,
        automatic=True,
        currency=currency,
        metadata={},
        method="standard",
        reconciliation_status="completed",
        status="paid",
        type="bank_account",
    )
    payment = enter(book, "payout", payout, -amount, at_once=True)
    for entry in [*gathered, payment]:
        book.save({**entry, "_payout": payout["id"]})
    payout = book.save({**payout, "balance_transaction": payment["id"]})
    for kind in ("payout.created", "payout.paid", "payout.reconciliation_completed"):
        events.record(book, kind, payout)
    return payout
