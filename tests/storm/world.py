"""Who lives in a storm: customers with cards of every kind, and what the writer was told to be done."""

import json
import os
import random
import uuid
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

from django.conf import settings

from accounts.models import Account, BillingEntity, Member, PaymentMethod, User
from billing import gateways
from billing.gateways.standins.sandbox import CARDS

ACCOUNTS = 40
# Every third of them signs in on the site.
SIGN_IN_EVERY = 3
FIRST_MONTH = date(2019, 1, 1)
TOKENS = (
    *["sandbox_visa"] * 10,
    *["sandbox_mastercard"] * 5,
    *["sandbox_insufficient"] * 2,
    "sandbox_declined",
    "sandbox_slow",
    *["sandbox_lost_reply"] * 2,
    None,
)


# Every fourth pays through the second provider.
STRIPE_EVERY = 4
# The last one can be stored, and is declined at each charge.
STRIPE_CARDS = (*["pm_card_visa"] * 5, *["pm_card_mastercard"] * 3, "pm_card_chargeCustomerFail")


def populate(rng: random.Random) -> None:
    """Make the entity, the customers, their cards, and who signs in on the site."""
    entity, _ = BillingEntity.objects.get_or_create(
        slug="default", defaults={"name": "Month Close", "invoice_prefix": "MC"}
    )
    # Due at once, and held without a warning: a storm has no fortnight to wait.
    entity.payment_terms_days = entity.grace_days = None
    entity.save()
    for number in range(ACCOUNTS):
        account = Account.objects.create(
            entity=entity,
            external_id=f"storm-{number:02}",
            name=f"Storm {number}",
            currency="EUR",
            email=f"storm{number}@example.com",
        )
        if number % STRIPE_EVERY == 1:
            stripe_card(account, rng.choice(STRIPE_CARDS)).save()
        else:
            token = TOKENS[number] if number < len(TOKENS) else rng.choice(TOKENS)
            if token:
                card(account, token).save()
        if number % SIGN_IN_EVERY == 0:
            user = User.objects.create_user(account.email, "secret")
            Member.objects.create(account=account, user=user)


def card(account: Account, token: str) -> PaymentMethod:
    looks = CARDS[token]
    return PaymentMethod(
        account=account,
        gateway="sandbox",
        token=token,
        brand=looks.brand,
        last_four=looks.last_four,
        expiry_month=12,
        expiry_year=2035,
        is_default=True,
    )


def stripe_card(account: Account, card_name: str) -> PaymentMethod:
    """A card as the page of the site would store it: under a customer at the provider."""
    gateway = gateways.get("stripe")
    customer = gateway.ensure_customer(
        account_ref=account.external_id, email=account.email, name=account.name
    )
    # Its own client: the protocol has no call for what the provider's form does.
    attached = gateway._client.v1.payment_methods.attach(card_name, {"customer": customer})
    return PaymentMethod(
        account=account,
        gateway="stripe",
        token=attached.id,
        customer_ref=customer,
        brand="Visa",
        last_four=attached.card.last4,
        expiry_month=12,
        expiry_year=2035,
        is_default=True,
    )


class Journal:
    """
    What the writer was told is done: whatever is in it may not be lost.

    Written after the answer, and forced to disk, so that a killed writer claims too little and never
    too much.
    """

    def __init__(self) -> None:
        self._path = Path(settings.STORM_FOLDER) / "acknowledged.jsonl"

    def acknowledged(self, what: str, **facts: Any) -> None:
        line = json.dumps({"what": what, **facts}) + "\n"
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, line.encode())
        os.fsync(descriptor)
        os.close(descriptor)

    def read(self, what: str) -> Iterator[dict[str, Any]]:
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        return (entry for line in lines if (entry := json.loads(line))["what"] == what)


def usage_row(event_id: str, account: str, minor: int, day: date) -> str:
    """One row of a usage file, whose amount is in its price."""
    return f"{event_id},{account},server,hour,1,{minor // 100}.{minor % 100:02},{day}T12:00:00Z"


HEADER = "event_id,account,product,unit,quantity,unit_price,starts_at"


def month_of(number: int) -> date:
    return date(FIRST_MONTH.year + number // 12, number % 12 + 1, 1)


def new_token() -> uuid.UUID:
    return uuid.uuid4()
