"""
FOCUS 1.0, the open format for cloud bills (focus.finops.org), of any provider.

What is billed is `BilledCost`, whatever list prices stand beside it.
"""

from functools import lru_cache

from billing.models.usage import Kind
from billing.usage.imports import fields
from billing.usage.imports.file_errors import RowRejected
from billing.usage.imports.named_money import MoneyColumns
from billing.usage.imports.rows import (
    LONGEST,
    LONGEST_DESCRIPTION,
    LONGEST_NAME,
    Columns,
    Format,
    RawRow,
    RowReader,
    StagedRow,
)

KINDS = {
    "Usage": Kind.USAGE,
    "Purchase": Kind.FEE,
    "Credit": Kind.CREDIT,
    "Adjustment": Kind.ADJUSTMENT,
    "Tax": Kind.TAX,
}

REQUIRED = (
    "BilledCost", "BillingAccountId", "BillingCurrency", "ChargeCategory", "ChargePeriodStart",
    "ChargePeriodEnd", "ServiceName",
)  # fmt: skip
OPTIONAL = (
    "SubAccountId", "SubAccountName", "ChargeClass", "CommitmentDiscountStatus", "PricingQuantity",
    "PricingUnit", "ConsumedQuantity", "ConsumedUnit", "BillingPeriodStart", "BillingPeriodEnd",
    "ChargeDescription", "SkuId", "SkuPriceId", "RegionId", "RegionName", "ResourceId",
    "ResourceName", "ProviderName", "Tags",
)  # fmt: skip


def reader(columns: Columns) -> RowReader:
    """Make the function that reads rows of a file with these columns."""
    pick = columns.picker(*REQUIRED, *OPTIONAL)

    def read(row: RawRow, digest: str) -> StagedRow:
        (cost, billing_account, currency, category, start, end, service, sub_account, name,
         charge_class, commitment, pricing_quantity, pricing_unit, consumed_quantity, consumed_unit,
         period_start, period_end, description, sku, sku_price, region, region_name, resource,
         resource_name, provider, tags) = ["" if field == "NULL" else field for field in pick(row)]  # fmt: skip
        amount = fields.amount(cost, "BilledCost", rounded=True)
        starts_at = fields.instant(start, "ChargePeriodStart")
        if pricing_quantity:
            used, unit, used_field = pricing_quantity, pricing_unit, "PricingQuantity"
        else:
            used, unit, used_field = consumed_quantity or "0", consumed_unit, "ConsumedQuantity"
        return StagedRow(
            event_id=digest,
            account=sub_account or billing_account,
            account_name=name[:LONGEST_NAME] if sub_account else "",
            product=service,
            product_name=service,
            currency=currency,
            kind=_kind(category, charge_class, commitment, amount).value,
            item=_item(description, region or region_name, sku_price or sku),
            unit=unit,
            quantity=fields.quantity(used, used_field, rounded=True),
            unit_price=None,
            amount=amount,
            starts_at=starts_at,
            ends_at=fields.instant(end, "ChargePeriodEnd"),
            effective_at=_effective_at(starts_at, period_start, period_end),
            description=description[:LONGEST_DESCRIPTION],
            attributes=_attributes(provider, resource, resource_name, region or region_name, tags),
        )

    return read


def _kind(category: str, charge_class: str, commitment: str, amount: str) -> Kind:
    kind = KINDS.get(category)
    if kind is None:
        raise RowRejected(
            field="ChargeCategory",
            value=category,
            problem="is not a charge category of FOCUS 1.0",
            fix=f"Use one of {', '.join(KINDS)}",
        )
    if kind is not Kind.USAGE:
        return kind
    if charge_class == "Correction":
        return Kind.ADJUSTMENT
    return Kind.COVERED if commitment == "Used" and fields.is_zero(amount) else Kind.USAGE


def _item(description: str, region: str, sku: str) -> str:
    """What a customer reads on the line, with what support looks it up by."""
    return " · ".join(part for part in (description, region, sku) if part)[: LONGEST["item"]]


def _effective_at(starts_at: str, period_start: str, period_end: str) -> str:
    if not period_start or not period_end:
        return starts_at
    first_at = fields.instant(period_start, "BillingPeriodStart")
    inside = first_at <= starts_at < fields.instant(period_end, "BillingPeriodEnd")
    return starts_at if inside else first_at


@lru_cache(maxsize=fields.CACHED)
def _attributes(provider: str, resource: str, resource_name: str, region: str, tags: str) -> str:
    return fields.json_text(
        fields.told(
            provider=provider,
            resource=resource,
            resource_name=resource_name,
            region=region,
            tags=fields.json_object(tags),
        )
    )


FORMAT = Format(
    name="focus",
    description="FOCUS 1.0 as CSV",
    required=REQUIRED,
    reader=reader,
    called={
        "account": "SubAccountId",
        "product": "ServiceName",
        "currency": "BillingCurrency",
        "ends_at": "ChargePeriodEnd",
        "quantity": "PricingQuantity",
        "unit_price": "BilledCost",
        "item": "ChargeDescription",
        "unit": "PricingUnit",
        "event_id": "row",
    },
    money=MoneyColumns(
        account=("SubAccountId", "BillingAccountId"),
        currency="BillingCurrency",
        amount="BilledCost",
        quantity="",
        unit_price="",
        month=("BillingPeriodStart", "ChargePeriodStart"),
    ),
)
