"""One row of a usage file on its way into the staging table, and what every row must keep to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

from billing.models.usage import Kind
from billing.usage.imports import fields
from billing.usage.imports.file_errors import FileRefused, RowRejected
from billing.usage.imports.named_money import MoneyColumns

# As long as their columns.
LONGEST = {"account": 200, "product": 200, "event_id": 200, "item": 300, "unit": 60}
LONGEST_NAME = 200
LONGEST_DESCRIPTION = 500

NUL = "\x00"

USED = (Kind.USAGE.value, Kind.COVERED.value)


class StagedRow(NamedTuple):
    """The columns of the staging table, as COPY reads them; None is NULL."""

    event_id: str
    account: str
    account_name: str
    product: str
    product_name: str
    currency: str | None
    kind: str
    item: str
    unit: str
    quantity: str
    unit_price: str | None
    amount: str | None
    starts_at: str
    ends_at: str
    effective_at: str
    description: str
    # Already escaped; everything else is escaped where it must be.
    attributes: str


# A row as the file has it, with one empty field behind the last.
RawRow = Sequence[str]
# Reads a row, given the digest of it. Raises RowRejected.
RowReader = Callable[[RawRow, str], StagedRow]


class Columns:
    """Where the columns of a file stand, whatever their order and capitals."""

    def __init__(self, header: Sequence[str]) -> None:
        self.names = [name.strip() for name in header]
        self.folded = [name.casefold() for name in self.names]

    def __len__(self) -> int:
        return len(self.names)

    def missing(self, required: Sequence[str]) -> list[str]:
        """The required columns that are not there."""
        return [name for name in required if name.casefold() not in self.folded]

    def picker(self, *names: str) -> Callable[[RawRow], tuple[str, ...]]:
        """
        Make a function that picks these columns from a row; those not there are empty.

        :raises FileRefused: if one stands in the file twice.
        """
        for name in names:
            if self.folded.count(name.casefold()) > 1:
                raise FileRefused(f"Column {name!r} stands in the header more than once: keep one.")
        return picker([self._position(name) for name in names])

    def starting_with(self, prefix: str) -> list[str]:
        """The names of the columns that start so."""
        return [name for name in self.names if name.casefold().startswith(prefix)]

    def _position(self, name: str) -> int:
        folded = name.casefold()
        return self.folded.index(folded) if folded in self.folded else -1


def picker(positions: Sequence[int]) -> Callable[[RawRow], tuple[str, ...]]:
    """itemgetter that returns a tuple for one position and for none, too."""
    if len(positions) > 1:
        return itemgetter(*positions)
    return lambda row: tuple(row[position] for position in positions)


@dataclass(frozen=True)
class Format:
    """A kind of usage file."""

    name: str
    # For people, with what to do to get such a file.
    description: str
    required: Sequence[str]
    # Makes the reader for a file with these columns.
    reader: Callable[[Columns], RowReader]
    # What the file calls the fields that `check` may reject.
    called: dict[str, str]
    # What says how much money a row is about, where it cannot be billed.
    money: MoneyColumns
    # Whether rows carry ids; where they don't, equal rows of a file are counted.
    has_event_ids: bool = False


def check_shape(row: RawRow, columns: Columns) -> None:
    """
    Check that a row has a field per column.

    :raises RowRejected: if not.
    """
    if len(row) != len(columns):
        raise RowRejected(
            field="row",
            value=f"{len(row)} fields",
            problem=f"does not have the {len(columns)} fields of the header",
            fix="Look for a comma or a quote too many or too few",
        )


def holds_nul(row: RawRow, columns: Columns) -> RowRejected:
    """The rejection of a row that holds a NUL character, under the name of the column it is in."""
    name, field = next(pair for pair in zip(columns.names, row, strict=True) if NUL in pair[1])
    return RowRejected(
        field=name,
        value=field.replace(NUL, "\\x00"),
        problem="holds a NUL character, which no database keeps",
        fix="Remove it where it is exported",
    )


def check(row: StagedRow, called: dict[str, str]) -> None:
    """
    Check what holds for rows of every format.

    :raises RowRejected: under the name that the file has for the field.
    """
    if not row.account or not row.product:
        field = "account" if not row.account else "product"
        raise RowRejected(
            field=called[field],
            value="",
            problem="is empty",
            fix=f"Say which {field} this row is for",
        )
    if row.currency is not None:
        fields.currency(row.currency, called["currency"])
    if row.ends_at < row.starts_at:
        raise RowRejected(
            field=called["ends_at"],
            value=row.ends_at,
            problem=f"lies before the start {row.starts_at}",
            fix="Correct one of the two",
        )
    if row.kind in USED and "-" in row.quantity and fields.is_negative(row.quantity):
        raise _negative(called["quantity"], row.quantity)
    if row.kind in USED and row.unit_price and fields.is_negative(row.unit_price):
        raise _negative(called["unit_price"], row.unit_price)
    if (
        len(row.account) > LONGEST["account"]
        or len(row.product) > LONGEST["product"]
        or len(row.event_id) > LONGEST["event_id"]
        or len(row.item) > LONGEST["item"]
        or len(row.unit) > LONGEST["unit"]
    ):
        raise _too_long(row, called)


def _too_long(row: StagedRow, called: dict[str, str]) -> RowRejected:
    name = next(name for name, longest in LONGEST.items() if len(getattr(row, name)) > longest)
    return RowRejected(
        field=called[name],
        value=getattr(row, name),
        problem=f"is longer than {LONGEST[name]} characters",
        fix="Shorten it where it is exported",
    )


def _negative(field: str, value: str) -> RowRejected:
    return RowRejected(
        field=field,
        value=value,
        problem="is negative, and nobody uses less than nothing",
        fix="Send a correction as an adjustment or a credit",
    )
