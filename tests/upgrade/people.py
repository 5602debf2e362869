"""Who is billed: by seed, with the card that each has and what will come of it."""

import random
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

CURRENCIES = {"EUR": 2, "USD": 2, "JPY": 0}
PASSWORD = "secret"


@dataclass(frozen=True)
class Means:
    """What somebody pays with, how many of a hundred do, and whether it pays."""

    gateway: str
    # At the second provider the card's name, else the token.
    token: str
    percent: int
    pays: bool = False
    # Its bank asks the customer first, and waits for the answer.
    asks: bool = False
    # Money comes when the bank says so, days later.
    takes_days: bool = False


MEANS = (
    Means("stripe", "visa", 47, pays=True),
    Means("stripe", "mastercard", 8, pays=True),
    Means("stripe", "visa_chargeDeclinedInsufficientFunds", 6),
    Means("stripe", "visa_chargeDeclinedLostCard", 3),
    Means("stripe", "authenticationRequired", 5, asks=True),
    Means("sandbox", "sandbox_visa", 6, pays=True),
    Means("sandbox", "sandbox_slow", 4, pays=True),
    Means("sandbox", "sandbox_lost_reply", 3, pays=True),
    Means("sandbox", "sandbox_insufficient", 3),
    Means("debit", "debit_pays", 6, takes_days=True),
    Means("debit", "debit_lost_reply", 2, takes_days=True),
    Means("", "", 7),
)


@dataclass(frozen=True)
class Customer:
    """One account, its only usage, and its means."""

    name: str
    currency: str
    minor: int
    means: Means
    # Signs in on the site and pays there.
    signs_in: bool = False

    @property
    def email(self) -> str:
        return f"{self.name}@example.com"


def customers(seed: int, count: int, *, name: str = "upgrade") -> list[Customer]:
    """
    The same from the same seed.

    Of the last half, whose turn comes late, one in eight of those who can pay does so on the site.
    """
    rng = random.Random(f"{seed} {name}")
    weights = [means.percent for means in MEANS]
    made = []
    for number in range(count):
        [means] = rng.choices(MEANS, weights)
        made.append(
            Customer(
                f"{name}-{number:05d}",
                rng.choice(list(CURRENCIES)),
                rng.randrange(500, 50_000),
                means,
                signs_in=means.pays and number >= count // 2 and rng.random() < 0.12,
            )
        )
    return made


def last_month() -> date:
    """The one that the sweeper would close too, so that both mean the same run."""
    return (datetime.now(UTC).date().replace(day=1) - timedelta(days=1)).replace(day=1)


def usage_file(who: list[Customer], month: date) -> str:
    """Their usage as a file for import_usage: one event each, whose amount is in its price."""
    lines = ["event_id,account,product,unit,quantity,unit_price,starts_at"]
    for each in who:
        amount = major(each.minor, each.currency)
        lines.append(f"e-{each.name},{each.name},server,month,1,{amount},{month}T12:00:00Z")
    return "\n".join(lines) + "\n"


def major(minor: int, currency: str) -> str:
    """Minor units as people write them."""
    digits = CURRENCIES[currency]
    return f"{minor // 10**digits}.{minor % 10**digits:0{digits}}" if digits else str(minor)


def rows(who: list[Customer], cards: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """What inside.py makes accounts from. `cards`: what each has stored, by the account's name."""
    return [
        {**asdict(each), "email": each.email, "card": cards.get(each.name), "password": PASSWORD}
        for each in who
    ]
