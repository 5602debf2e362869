"""
AWS Cost and Usage Reports: one row per account, resource, usage type and hour.

A row's own price is `unit_rate`. Spot usage has none, only what it cost: `billed_cost`.
"""

from functools import lru_cache

from billing.models.usage import Kind
from billing.usage.imports import fields
from billing.usage.imports.file_errors import RowRejected
from billing.usage.imports.named_money import MoneyColumns
from billing.usage.imports.rows import (
    LONGEST_DESCRIPTION,
    Columns,
    Format,
    RawRow,
    RowReader,
    StagedRow,
)

KINDS = {
    "Usage": Kind.USAGE,
    "DiscountedUsage": Kind.COVERED,
    # Billed at its own rate here and taken back by a SavingsPlanNegation row: usage, not covered.
    "SavingsPlanCoveredUsage": Kind.USAGE,
    "SavingsPlanNegation": Kind.ADJUSTMENT,
    "SavingsPlanUpfrontFee": Kind.FEE,
    "SavingsPlanRecurringFee": Kind.FEE,
    "RIFee": Kind.FEE,
    "Fee": Kind.FEE,
    "Tax": Kind.TAX,
    "Credit": Kind.CREDIT,
    "Refund": Kind.ADJUSTMENT,
    "Discount": Kind.ADJUSTMENT,
    "BundledDiscount": Kind.ADJUSTMENT,
    "EdpDiscount": Kind.ADJUSTMENT,
    "PrivateRateDiscount": Kind.ADJUSTMENT,
    "RiVolumeDiscount": Kind.ADJUSTMENT,
    "DistributorDiscount": Kind.ADJUSTMENT,
}

METERED = (Kind.USAGE, Kind.COVERED)
# Their rate, where one is written, is not what is billed; their cost is.
BILLED_BY_COST = (Kind.TAX, Kind.CREDIT, Kind.ADJUSTMENT)

REQUIRED = (
    "usage_account", "line_type", "usage_start", "usage_end", "product_code", "usage_type",
    "operation", "region", "usage_amount", "pricing_unit", "currency",
)  # fmt: skip


@lru_cache(maxsize=fields.CACHED)
def item(usage_type: str, operation: str, region: str) -> str:
    """What tells one line of a product from another: "BoxUsage:t2.micro · RunInstances · us-east-1"."""
    return " · ".join(part for part in (usage_type, operation, region) if part)


def reader(columns: Columns) -> RowReader:
    """Make the function that reads rows of a file with these columns."""
    pick = columns.picker(
        *REQUIRED, "unit_rate", "billed_cost", "billing_month", "description", "resource_id"
    )
    tags = tuple(columns.starting_with("tag_"))
    pick_tags = columns.picker(*tags)

    def read(row: RawRow, digest: str) -> StagedRow:
        (account, line_type, start, end, product, usage_type, operation, region, used, unit,
         currency, rate, cost, month, description, resource) = pick(row)  # fmt: skip
        kind = _kind(line_type)
        starts_at = fields.instant(start, "usage_start")
        unit_price, amount = _price(kind, rate=rate, cost=cost)
        return StagedRow(
            event_id=digest,
            account=account,
            account_name="",
            product=product,
            product_name="",
            currency=currency,
            kind=kind.value,
            item=item(usage_type, operation, region),
            unit=unit,
            quantity=fields.quantity(used if used or kind in METERED else "0", "usage_amount"),
            unit_price=unit_price,
            amount=amount,
            starts_at=starts_at,
            ends_at=fields.instant(end, "usage_end"),
            effective_at=_effective_at(starts_at, month),
            description=description[:LONGEST_DESCRIPTION],
            attributes=_attributes(resource, region, tags, pick_tags(row)),
        )

    return read


def _kind(line_type: str) -> Kind:
    kind = KINDS.get(line_type)
    if kind is None:
        raise RowRejected(
            field="line_type",
            value=line_type,
            problem="is not a line type we know",
            fix=f"Use one of {', '.join(KINDS)}",
        )
    return kind


def _price(kind: Kind, *, rate: str, cost: str) -> tuple[str | None, str | None]:
    """The price per unit and the amount that the row states: at most one of them."""
    if rate and not (cost and kind in BILLED_BY_COST):
        return fields.unit_price(rate, "unit_rate"), None
    if cost:
        return None, fields.amount(cost, "billed_cost")
    # Reserved usage is paid for by its fee, in every price book.
    return ("0", None) if kind is Kind.COVERED else (None, None)


def _effective_at(starts_at: str, month: str) -> str:
    if not month:
        return starts_at
    first_at, next_at = fields.utc_month(month, "billing_month")
    return starts_at if first_at <= starts_at < next_at else first_at


@lru_cache(maxsize=fields.CACHED)
def _attributes(resource: str, region: str, names: tuple[str, ...], tags: tuple[str, ...]) -> str:
    tagged = {name[len("tag_") :]: tag for name, tag in zip(names, tags, strict=True) if tag}
    return fields.json_text(fields.told(resource=resource, region=region, tags=tagged))


FORMAT = Format(
    name="aws-cur",
    description="AWS Cost and Usage Report",
    required=REQUIRED,
    reader=reader,
    called={
        "account": "usage_account",
        "product": "product_code",
        "currency": "currency",
        "ends_at": "usage_end",
        "quantity": "usage_amount",
        "unit_price": "unit_rate",
        "item": "usage_type",
        "unit": "pricing_unit",
        "event_id": "row",
    },
    money=MoneyColumns(
        account=("usage_account",),
        currency="currency",
        amount="billed_cost",
        quantity="usage_amount",
        unit_price="unit_rate",
        month=("billing_month", "usage_start"),
    ),
)
