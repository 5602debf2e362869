"""
Money, instants and dates as the reader writes them. Pure; what it needs to know is passed in.

English is written for readers anywhere: the day before the month, 24 hours, and US$ told apart
from A$. Every instant names the place whose time it is.
"""

import datetime as dt
import re
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from decimal import Decimal
from functools import cache, lru_cache
from zoneinfo import ZoneInfo

from babel import Locale
from babel.dates import format_date, format_skeleton, get_timezone_location
from babel.numbers import (
    NumberPattern,
    get_currency_symbol,
    get_decimal_symbol,
    get_group_symbol,
)
from django.conf import settings
from django.utils.translation import get_supported_language_variant

from accounts import zones
from accounts.models import Account

BABEL_LOCALES = {"en": "en_GB"}
# Their hundredth part has not been money for a long time: it is written only where there is any.
WHOLE_WITHOUT_DECIMALS = frozenset({"HUF"})
UTC_OFFSET = ("Etc/GMT+", "Etc/GMT-")
# All the messages of a batch tell of the same few.
MOMENTS_KEPT = 1000


@dataclass(frozen=True)
class Reader:
    """The reader of a message: the language and the time zone in which it is written."""

    locale: str
    time_zone: str

    @classmethod
    def of(cls, account: Account) -> "Reader":
        """The reader of an account's messages: in English, and in UTC, where what it says is not there."""
        return cls(locale=supported(account.language), time_zone=zones.or_utc(account.time_zone))

    def money(self, amount_minor: int, currency: str) -> str:
        return money(amount_minor, currency, self.locale)

    def instant(self, moment: dt.datetime) -> str:
        return instant(moment, self.locale, self.time_zone)

    def date(self, moment: dt.datetime) -> str:
        return date(moment, self.locale, self.time_zone)

    def day(self, day: dt.date) -> str:
        return in_full(day, self.locale)

    def period(self, month: dt.date) -> str:
        return period(month, self.locale)


def supported(language: str) -> str:
    """The supported language closest to a code: "hu" for "hu-HU", the default for "xx"."""
    try:
        return get_supported_language_variant(language)
    except LookupError:
        return settings.LANGUAGE_CODE


def money(amount_minor: int, currency: str, locale: str) -> str:
    """Write an amount in minor units with its currency and that currency's decimals: forints without, if they are 00."""
    whole, minor = divmod(abs(amount_minor), _scale(currency))
    before, after = _around(locale, currency)[amount_minor < 0]
    decimals = _exponent(currency)
    digits = _grouped(whole, locale)
    if decimals and (minor or currency not in WHOLE_WITHOUT_DECIMALS):
        digits += f"{_decimal_mark(locale)}{minor:0{decimals}}"
    return f"{before}{digits}{after}"


def unit_price(price: Decimal, currency: str, locale: str) -> str:
    """Write a price in major units as amounts are written, exact: with as many decimals as it has, or its currency."""
    before, after = _around(locale, currency)[price < 0]
    whole, _, fraction = f"{abs(price).normalize():f}".partition(".")
    digits = _grouped(int(whole), locale)
    if fraction or currency not in WHOLE_WITHOUT_DECIMALS:
        fraction = fraction.ljust(_exponent(currency), "0")
    return f"{before}{digits}{_decimal_mark(locale) if fraction else ''}{fraction}{after}"


@lru_cache(MOMENTS_KEPT)
def instant(moment: dt.datetime, locale: str, time_zone: str) -> str:
    """ "1 November 2026, 06:12 (Budapest)"."""
    local = moment.astimezone(ZoneInfo(time_zone))
    return f"{date(moment, locale, time_zone)}, {local:%H:%M} ({place(time_zone, locale)})"


@lru_cache(MOMENTS_KEPT)
def date(moment: dt.datetime, locale: str, time_zone: str) -> str:
    """ "1 November 2026": the day it is in the reader's zone."""
    return in_full(moment.astimezone(ZoneInfo(time_zone)).date(), locale)


@lru_cache(MOMENTS_KEPT)
def in_full(day: dt.date, locale: str) -> str:
    """ "1 November 2026", for a day that is the same everywhere."""
    return format_date(day, "long", babel_locale(locale))


@lru_cache(MOMENTS_KEPT)
def period(month: dt.date, locale: str) -> str:
    """ "October 2026", for the month a first day stands for."""
    return format_skeleton("yMMMM", month, locale=babel_locale(locale))


@cache
def babel_locale(locale: str) -> Locale:
    """The Babel locale of a language of ours."""
    return Locale.parse(BABEL_LOCALES.get(locale, locale), sep="-" if "-" in locale else "_")


@cache
def place(time_zone: str, locale: str) -> str:
    """ "Budapest", "Tokió": the place whose time it is, as its reader calls it; "UTC-5" where that is all there is."""
    if time_zone.startswith(UTC_OFFSET):
        # Such names count westward, people eastward.
        hours = time_zone.removeprefix("Etc/GMT")
        return f"UTC{hours.translate(str.maketrans('+-', '-+'))}"
    city = get_timezone_location(ZoneInfo(time_zone), locale=babel_locale(locale), return_city=True)
    # CLDR has no name of its own for some: "Argentina/Buenos Aires".
    return city.rpartition("/")[2]


# Babel writes an amount in ten microseconds, and an invoice has a dozen. So it is asked once for what
# stands around the digits; what it would write itself, tests/notifications/test_formats.py asks it.


@cache
def _around(locale: str, currency: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """The text before and after the digits of an amount, and of a negative one."""
    decimals = _exponent(currency)
    one = "1" + (_decimal_mark(locale) + "0" * decimals if decimals else "")
    pattern = _currency_pattern(locale, currency)

    def cut(amount: Decimal) -> tuple[str, str]:
        written: str = pattern.apply(
            amount, babel_locale(locale), currency=currency, currency_digits=False
        )
        before, _, after = written.partition(one)
        return before, after

    return cut(Decimal(1)), cut(Decimal(-1))


@cache
def _currency_pattern(locale: str, currency: str) -> NumberPattern:
    pattern: NumberPattern = copy(babel_locale(locale).currency_formats["standard"])
    # Babel would take the decimals people use in cash (IQD 0); the books keep ISO 4217's (IQD 3).
    pattern.frac_prec = (_exponent(currency), _exponent(currency))
    # CLDR sets letters apart from digits, "HUF 1,234.00"; Babel does not know that pattern of it.
    if get_currency_symbol(currency, babel_locale(locale))[-1].isalpha():
        plus, minus = (re.sub("¤$", "¤\N{NO-BREAK SPACE}", part) for part in pattern.prefix)
        pattern.prefix = plus, minus
    return pattern


def _grouped(whole: int, locale: str) -> str:
    return f"{whole:,}".replace(",", _group_mark(locale))


@cache
def _group_mark(locale: str) -> str:
    grouping = babel_locale(locale).currency_formats["standard"].grouping
    assert grouping == (3, 3), f"{locale} does not write thousands: {grouping}"
    return get_group_symbol(babel_locale(locale))


@cache
def _decimal_mark(locale: str) -> str:
    return get_decimal_symbol(babel_locale(locale))


@cache
def _scale(currency: str) -> int:
    scale: int = 10 ** _exponent(currency)
    return scale


# The one table of decimals is the billing app's; it registers it here, as it does its messages.
_exponents: list[Callable[[str], int]] = []


def use_exponents(exponent: Callable[[str], int]) -> None:
    """Take the number of decimals of a currency's minor unit from this function."""
    _exponents[:] = [exponent]


def _exponent(currency: str) -> int:
    """Two where there is no such currency: one wrong account must not take a page of many away."""
    try:
        return _exponents[0](currency)
    except ValueError:
        return 2
