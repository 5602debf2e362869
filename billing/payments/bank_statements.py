"""Read a bank's statement: incoming transfers as rows of CSV. Nothing is written here."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path

from billing.money import NotWhole, UnknownCurrency, check_currency, to_minor
from billing.usage.imports.file_errors import FileRefused, RowRejected
from billing.usage.imports.files import open_table

COLUMNS = ("date", "amount", "currency", "reference", "payer", "bank_ref")
AMOUNT = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,6})?").fullmatch
LONGEST_BANK_REF, LONGEST_REFERENCE, LONGEST_PAYER = 140, 300, 200
# More tell nothing new of what is wrong with a file.
REJECTS_SHOWN = 20


@dataclass(frozen=True)
class StatementRow:
    """One incoming transfer as the bank says it; the amount in minor units."""

    number: int  # in the file, its header being 1
    received_on: date
    amount_minor: int
    currency: str
    reference: str
    payer: str
    bank_ref: str


def read(path: Path) -> list[StatementRow]:
    """
    Read a whole statement; one that is listed twice, word for word, comes once.

    :raises FileRefused: if it cannot be read, or a row of it is wrong: names line, field, value and fix.
    """
    rows: dict[str, StatementRow] = {}
    rejects: list[str] = []
    with open_table(path) as table:
        pick = _Cells(path, table.header)
        for number, cells in table.rows():
            try:
                row = _row(number, pick(cells))
                known = rows.setdefault(row.bank_ref, row)
                _check_same(row, known)
            except RowRejected as rejected:
                rejects.append(f"line {number}: {rejected}.")
    if rejects:
        shown = "\n".join(rejects[:REJECTS_SHOWN])
        more = len(rejects) - REJECTS_SHOWN
        raise FileRefused(
            f"{path}: nothing was imported, {len(rejects)} rows are wrong.\n{shown}"
            + (f"\n… and {more} more" if more > 0 else "")
        )
    return list(rows.values())


class _Cells:
    """The cells of a row in our order, whatever order the file has them in."""

    def __init__(self, path: Path, header: Sequence[str]) -> None:
        names = [name.strip().lower() for name in header]
        if missing := [name for name in COLUMNS if name not in names]:
            raise FileRefused(
                f"{path}: its first line names no column {', '.join(missing)}."
                f" Name them {', '.join(COLUMNS)}."
            )
        self.places = [names.index(name) for name in COLUMNS]
        self.width = len(names)

    def __call__(self, cells: Sequence[str]) -> list[str]:
        if len(cells) != self.width:
            raise RowRejected(
                field="row",
                value=",".join(cells)[:80],
                problem=f"has {len(cells)} cells, the first line {self.width}",
                fix="Put quotes around a cell that has a comma in it",
            )
        return [cells[place].strip() for place in self.places]


def _row(number: int, cells: Sequence[str]) -> StatementRow:
    day, amount, currency, reference, payer, bank_ref = cells
    currency = _currency(currency)
    return StatementRow(
        number=number,
        received_on=_day(day),
        amount_minor=_amount_minor(amount, currency),
        currency=currency,
        reference=reference[:LONGEST_REFERENCE],
        payer=payer[:LONGEST_PAYER],
        bank_ref=_bank_ref(bank_ref),
    )


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise RowRejected(
            field="date", value=text, problem="is no date", fix="Write it as 2026-11-02"
        ) from None


def _currency(text: str) -> str:
    try:
        return check_currency(text.upper())
    except UnknownCurrency:
        raise RowRejected(
            field="currency",
            value=text,
            problem="is no currency",
            fix="Write its three letters, such as EUR",
        ) from None


def _amount_minor(text: str, currency: str) -> int:
    if not AMOUNT(text):
        raise RowRejected(
            field="amount",
            value=text,
            problem="is no number",
            fix="Write digits with a decimal point and nothing else, such as 1234.50",
        )
    try:
        amount_minor = to_minor(Decimal(text), currency)
    except NotWhole as finer:
        raise RowRejected(
            field="amount", value=text, problem=str(finer), fix="Look at the bank's own statement"
        ) from None
    if amount_minor <= 0:
        raise RowRejected(
            field="amount",
            value=text,
            problem="did not come in",
            fix="Leave out what is not an incoming payment",
        )
    return amount_minor


def _bank_ref(text: str) -> str:
    if not text or len(text) > LONGEST_BANK_REF:
        raise RowRejected(
            field="bank_ref",
            value=text[:80],
            problem="is empty" if not text else f"is longer than {LONGEST_BANK_REF} characters",
            fix="Give every transfer its bank's own id: it is what makes a second import harmless",
        )
    return text


def _check_same(row: StatementRow, known: StatementRow) -> None:
    if _told(row) != _told(known):
        raise RowRejected(
            field="bank_ref",
            value=row.bank_ref,
            problem=f"is that of another transfer, in line {known.number}",
            fix="Give every transfer its bank's own id",
        )


def _told(row: StatementRow) -> tuple[object, ...]:
    return (row.received_on, row.amount_minor, row.currency, row.reference, row.payer)
