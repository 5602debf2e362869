"""Read a bank's statement: incoming transfers as rows of CSV. Nothing is written here."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

from billing.money import NotWhole, UnknownCurrency, check_currency, to_minor
from billing.usage.imports.file_errors import FileRefused, RowRejected
from billing.usage.imports.files import open_table

COLUMNS = ("date", "amount", "currency", "reference", "payer", "bank_ref")
# Which account of ours it came in on, where a file says so: two banks may give the same id.
BANK_ACCOUNT = "bank_account"
AMOUNT = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,6})?").fullmatch
LONGEST_BANK_REF, LONGEST_REFERENCE, LONGEST_PAYER, LONGEST_BANK_ACCOUNT = 140, 300, 200, 64
# More tell nothing new of what is wrong with a file.
REJECTS_SHOWN = 20
LONGEST_NAME = 300


# What the bank says of an entry, all of which makes it known again: of a row here, of a stored transfer as well.
SAID = ("bank_account", "bank_ref", "received_on", "currency", "amount_minor", "reference", "payer")
Entry = tuple[Any, ...]


def entry_of(said: object) -> Entry:
    """What the bank says of a row or a stored transfer."""
    return tuple(getattr(said, name) for name in SAID)


@dataclass(frozen=True)
class StatementRow:
    """One incoming transfer as the bank says it; the amount in minor units."""

    file: str
    number: int  # in the file, its header being 1
    received_on: date
    amount_minor: int
    currency: str
    reference: str
    payer: str
    bank_ref: str
    bank_account: str


@dataclass(frozen=True)
class Statement:
    """A whole statement: each row with how many of the rows before it say the same, and itself."""

    name: str
    sha256: str
    rows: list[tuple[StatementRow, int]]


def read(*paths: Path) -> Statement:
    """
    Read a whole statement, in one file or in several that are its parts.

    :raises FileRefused: if it cannot be read, or a row of it is wrong: names line, field, value and fix.
    """
    if len({path.resolve() for path in paths}) < len(paths):
        raise FileRefused("A file is named twice: name each part of a statement once.")
    parts = [_read_part(path) for path in paths]
    digests = [sha256 for _rows, sha256 in parts]
    seen: Counter[Entry] = Counter()
    rows = []
    for row in (row for rows, _sha256 in parts for row in rows):
        entry = entry_of(row)
        seen[entry] += 1
        rows.append((row, seen[entry]))
    return Statement(
        name=", ".join(path.name for path in paths)[:LONGEST_NAME],
        sha256=digests[0] if len(digests) == 1 else _digest(digests),
        rows=rows,
    )


def _digest(digests: Sequence[str]) -> str:
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _read_part(path: Path) -> tuple[list[StatementRow], str]:
    rows: list[StatementRow] = []
    rejects: list[str] = []
    with open_table(path) as table:
        pick = _Cells(path, table.header)
        for number, cells in table.rows():
            try:
                rows.append(_row(path.name[:LONGEST_NAME], number, pick(cells)))
            except RowRejected as rejected:
                rejects.append(f"line {number}: {rejected}.")
    if rejects:
        shown = "\n".join(rejects[:REJECTS_SHOWN])
        more = len(rejects) - REJECTS_SHOWN
        raise FileRefused(
            f"{path}: nothing was imported, {len(rejects)} rows are wrong.\n{shown}"
            + (f"\n… and {more} more" if more > 0 else "")
        )
    return rows, table.sha256


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
        self.bank_account = names.index(BANK_ACCOUNT) if BANK_ACCOUNT in names else None
        self.width = len(names)

    def __call__(self, cells: Sequence[str]) -> list[str]:
        if len(cells) != self.width:
            raise RowRejected(
                field="row",
                value=",".join(cells)[:80],
                problem=f"has {len(cells)} cells, the first line {self.width}",
                fix="Put quotes around a cell that has a comma in it",
            )
        if any("\x00" in cell for cell in cells):
            raise RowRejected(
                field="row",
                value=",".join(cells)[:80],
                problem="holds a NUL character, which no database keeps",
                fix="Remove it where it is exported",
            )
        bank_account = "" if self.bank_account is None else cells[self.bank_account]
        return [*(cells[place].strip() for place in self.places), bank_account.strip()]


def _row(file: str, number: int, cells: Sequence[str]) -> StatementRow:
    day, amount, currency, reference, payer, bank_ref, bank_account = cells
    currency = _currency(currency)
    return StatementRow(
        file=file,
        number=number,
        received_on=_day(day),
        amount_minor=_amount_minor(amount, currency),
        currency=currency,
        reference=reference[:LONGEST_REFERENCE],
        payer=payer[:LONGEST_PAYER],
        bank_ref=_bank_ref(bank_ref),
        bank_account=re.sub(r"\s", "", bank_account).upper()[:LONGEST_BANK_ACCOUNT],
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
            fix="Give every transfer its bank's own id: with the rest, it makes a second import harmless",
        )
    return text
