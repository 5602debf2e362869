"""Our own format, for whoever meters by themselves. `docs/usage-files.md` explains each column."""

from billing.models.usage import Kind
from billing.usage.imports import fields
from billing.usage.imports.file_errors import RowRejected
from billing.usage.imports.named_money import MoneyColumns
from billing.usage.imports.rows import (
    LONGEST_DESCRIPTION,
    LONGEST_NAME,
    Columns,
    Format,
    RawRow,
    RowReader,
    StagedRow,
)

USAGE = Kind.USAGE.value
REQUIRED = ("event_id", "account", "product", "quantity", "starts_at")
OPTIONAL = (
    "ends_at", "effective_at", "currency", "kind", "item", "unit", "unit_price", "amount",
    "description", "account_name", "product_name", "attributes",
)  # fmt: skip


def reader(columns: Columns) -> RowReader:
    """Make the function that reads rows of a file with these columns."""
    pick = columns.picker(*REQUIRED, *OPTIONAL)
    instant = fields.instant

    def read(row: RawRow, _digest: str) -> StagedRow:
        (event_id, account, product, quantity, start, end, effective, currency, kind, item, unit,
         unit_price, amount, description, account_name, product_name, attributes) = pick(row)  # fmt: skip
        if not event_id:
            raise RowRejected(
                field="event_id",
                value="",
                problem="is empty",
                fix="Give every event an id of its own: it is what makes a second import harmless",
            )
        if unit_price and amount:
            raise RowRejected(
                field="amount",
                value=amount,
                problem=f"stands beside a unit price of {unit_price}",
                fix="State the price per unit or the whole amount, not both",
            )
        starts_at = instant(start, "starts_at")
        # In the order of StagedRow: by name takes twice as long.
        return StagedRow(
            event_id,
            account,
            account_name[:LONGEST_NAME],
            product,
            product_name[:LONGEST_NAME],
            currency or None,
            _kind(kind) if kind else USAGE,
            item,
            unit,
            fields.quantity(quantity, "quantity"),
            fields.unit_price(unit_price, "unit_price") if unit_price else None,
            fields.amount(amount, "amount") if amount else None,
            starts_at,
            instant(end, "ends_at") if end else starts_at,
            instant(effective, "effective_at") if effective else starts_at,
            description[:LONGEST_DESCRIPTION],
            _attributes(attributes) if attributes else "{}",
        )

    return read


def _kind(text: str) -> str:
    if text not in Kind.values:
        raise RowRejected(
            field="kind",
            value=text,
            problem="is not a kind of usage row",
            fix=f"Use one of {', '.join(Kind.values)}, or leave it empty for USAGE",
        )
    return text


def _attributes(text: str) -> str:
    attributes = fields.json_object(text)
    if isinstance(attributes, str):
        raise RowRejected(
            field="attributes",
            value=text,
            problem="is not a JSON object",
            fix='Write it as {"team": "search"}, or leave it empty',
        )
    return fields.json_text(attributes)


FORMAT = Format(
    name="csv",
    description="our own CSV, see docs/usage-files.md",
    required=REQUIRED,
    reader=reader,
    called={
        name: name
        for name in ("account", "product", "currency", "ends_at", "quantity", "unit_price", "item",
                     "unit", "event_id")
    },
    money=MoneyColumns(
        account=("account",),
        event_id="event_id",
        currency="currency",
        amount="amount",
        quantity="quantity",
        unit_price="unit_price",
        month=("effective_at", "starts_at"),
    ),
    has_event_ids=True,
)  # fmt: skip
