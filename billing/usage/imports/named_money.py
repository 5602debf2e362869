"""How much money a row names, as far as that can be read: for rows that cannot be billed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from billing.usage.imports import fields
from billing.usage.imports.file_errors import RowRejected

SMALLEST = Decimal(1).scaleb(-fields.DECIMALS)


@dataclass(frozen=True)
class Named:
    """What a rejected row says of itself; empty where it cannot be read."""

    account: str = ""
    event_id: str = ""
    currency: str = ""
    # In major units of the currency, or of the account's where it states none.
    amount: Decimal | None = None
    # The first day of the month that it belongs to.
    month: str = ""


@dataclass(frozen=True)
class MoneyColumns:
    """What a format calls the columns that say how much a row is, and of what month."""

    account: Sequence[str]
    currency: str
    amount: str
    quantity: str
    unit_price: str
    # The first of them that says something decides.
    month: Sequence[str]
    event_id: str = ""


def reader(folded: Sequence[str], called: MoneyColumns) -> Callable[[Sequence[str]], Named]:
    """Make the function that reads rows of a file with these columns, in small letters."""

    def cells(row: Sequence[str], names: Sequence[str]) -> list[str]:
        places = [folded.index(name.casefold()) for name in names if name.casefold() in folded]
        told = (row[place].strip() for place in places)
        return [cell for cell in told if cell and cell != "NULL"]

    def first(row: Sequence[str], *names: str) -> str:
        return next(iter(cells(row, names)), "")

    def read(row: Sequence[str]) -> Named:
        # Of a row with a field too many or too few, nobody knows which is which.
        if len(row) != len(folded):
            return Named()
        return Named(
            account=first(row, *called.account),
            event_id=first(row, called.event_id),
            currency=_currency(first(row, called.currency)),
            amount=_amount(
                first(row, called.amount),
                first(row, called.quantity),
                first(row, called.unit_price),
            ),
            month=_month(cells(row, called.month)),
        )

    return read


def _currency(text: str) -> str:
    if not text:
        return ""
    try:
        return fields.currency(text, "currency")
    except RowRejected:
        return UNREADABLE


# Of a currency that there is not; told from one that is not stated.
UNREADABLE = "?"


def _amount(amount: str, quantity: str, unit_price: str) -> Decimal | None:
    if amount:
        return _in_bounds(_number(amount))
    used, price = _number(quantity), _number(unit_price)
    return None if used is None or price is None else _in_bounds(fields.EXACT.multiply(used, price))


def _number(text: str) -> Decimal | None:
    if len(text) > fields.LONGEST_NUMBER or not fields.NUMBER(text):
        return None
    return Decimal(text)


def _in_bounds(amount: Decimal | None) -> Decimal | None:
    """Rounded to what is kept of an amount; of one that is too large, nothing."""
    if amount is None or (amount and amount.adjusted() >= fields.WHOLE_QUANTITY_DIGITS):
        return None
    return amount.quantize(SMALLEST, ROUND_HALF_UP, fields.EXACT)


def _month(texts: Sequence[str]) -> str:
    for text in texts:
        for read in (_of_month, _of_instant):
            if month := read(text):
                return month
    return ""


def _of_month(text: str) -> str:
    try:
        return fields.utc_month(text, "month")[0][:7] + "-01"
    except RowRejected:
        return ""


def _of_instant(text: str) -> str:
    try:
        return fields.instant(text, "month")[:7] + "-01"
    except RowRejected:
        return ""
