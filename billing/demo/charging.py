"""How the demo's customers pay: cards at a payment provider of our own, reached over HTTP by Stripe's SDK."""

import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import requests
from django.conf import settings

from accounts.models import Account, PaymentMethod
from billing import gateways
from billing.gateways.standins.fakestripe import shared

SEED = 20261002
AT_ONCE = 8
TIMEOUT_SECONDS = 30
# What befalls one request in a hundred or so: its reply is lost after it was done, or is a 500, or late.
FAULTS = "execute_then_drop=0.01,500=0.01,slow=0.01:1"


@dataclass(frozen=True)
class Card:
    """A card of the demo: its name at the provider, and how it looks."""

    name: str
    brand: str
    last_four: str


PAYS, PAYS_TOO = Card("visa", "Visa", "4242"), Card("mastercard", "Mastercard", "4444")
HAS_NO_MONEY = Card("visa_chargeDeclinedInsufficientFunds", "Visa", "9995")
DECLINES = Card("visa_chargeDeclined", "Visa", "0002")
EXPIRED = Card("chargeDeclinedExpiredCard", "Visa", "0069")
ASKS = Card("authenticationRequired", "Visa", "3184")
LOST = Card("visa_chargeDeclinedLostCard", "Visa", "9987")

# Of a hundred customers, so many have this card. None: no card at all.
CARDS_OF_A_HUNDRED: Sequence[tuple[Card | None, int]] = (
    (PAYS, 55),
    (PAYS_TOO, 27),
    (HAS_NO_MONEY, 5),
    (DECLINES, 3),
    (EXPIRED, 2),
    (LOST, 1),
    (ASKS, 2),
    (None, 5),
)


def set_up() -> dict[str, str]:
    """
    Start the demo's provider, its book empty, and charge through it from now on.

    Returns the settings as a child's environment needs them.

    :raises shared.DoesNotStart: if an earlier demo is still in use, or it does not answer.
    """
    provider = shared.renew(settings.PROVIDER_DIR)
    settings.STRIPE_SECRET_KEY = provider.secret_key
    settings.STRIPE_WEBHOOK_SECRETS = [provider.webhook_secret]
    settings.STRIPE_API_BASE = provider.url
    settings.GATEWAYS = ["stripe"]
    settings.TRIAL = True
    use_provider()
    return {
        "GATEWAYS": "stripe",
        "TRIAL": "true",
        "STRIPE_SECRET_KEY": provider.secret_key,
        "STRIPE_WEBHOOK_SECRETS": provider.webhook_secret,
        "STRIPE_API_BASE": provider.url,
    }


def use_provider() -> None:
    """
    Make this process a user of the provider that the demo has left, and start it if it is not there.

    :raises shared.DoesNotStart: if it does not answer in time.
    """
    shared.use(settings.PROVIDER_DIR)


def chosen(accounts: Sequence[Account]) -> list[tuple[Account, Card]]:
    """Who has which card: the same every time."""
    rng = random.Random(SEED)  # noqa: S311 - the same every time is the point
    cards, weights = zip(*CARDS_OF_A_HUNDRED, strict=True)
    holders = []
    for number, account in enumerate(accounts):
        # One of the two who sign in has paid, the other has not.
        card = (PAYS, HAS_NO_MONEY)[number] if number < 2 else rng.choices(cards, weights)[0]
        if card is not None:
            holders.append((account, card))
    return holders


def save(
    holders: Sequence[tuple[Account, Card]], *, on_saved: Callable[[], object] = lambda: None
) -> None:
    """Save everybody's card at the provider, as their own browsers would, and here."""

    def enter(holder: tuple[Account, Card]) -> PaymentMethod:
        method = _entered(*holder)
        on_saved()
        return method

    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        PaymentMethod.objects.bulk_create(pool.map(enter, holders))


def trouble() -> None:
    """From now on the provider loses replies, answers 500, or late: as in life."""
    _ask("_control/faults", json={"odds": FAULTS})


def tell(webhook_url: str) -> None:
    """From now on the provider tells this address what happens, as Stripe would."""
    _ask("_control/webhooks", json={"url": webhook_url})


def _entered(account: Account, card: Card) -> PaymentMethod:
    customer = gateways.get("stripe").ensure_customer(
        account_ref=account.external_id, email=account.email, name=account.name
    )
    saved = _ask("v1/payment_methods/pm_card_visa/attach", data={"customer": customer})
    if card is not PAYS:
        # A card that will not pay can be entered only while it still does.
        _ask("_control/cards", json={"payment_method": saved["id"], "becomes": card.name})
    return PaymentMethod(
        account=account,
        gateway="stripe",
        token=saved["id"],
        customer_ref=customer,
        brand=card.brand,
        last_four=card.last_four,
        expiry_month=saved["card"]["exp_month"],
        expiry_year=saved["card"]["exp_year"],
        is_default=True,
    )


def _ask(path: str, **said: Any) -> dict[str, Any]:
    answer = requests.post(
        f"{settings.STRIPE_API_BASE}/{path}",
        auth=(settings.STRIPE_SECRET_KEY, ""),
        timeout=TIMEOUT_SECONDS,
        **said,
    )
    answer.raise_for_status()
    said_back: dict[str, Any] = answer.json()
    return said_back
