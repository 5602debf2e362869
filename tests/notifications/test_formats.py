import datetime as dt
from datetime import datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moneyed import CURRENCIES

from accounts.models import Account
from billing.money import exponent
from notifications import formats
from notifications.formats import Reader


class TestMoney:
    @pytest.mark.parametrize(
        ("amount_minor", "currency", "english", "hungarian"),
        [
            (1000, "EUR", "€10.00", "10,00 EUR"),
            (123456789, "USD", "US$1,234,567.89", "1 234 567,89 USD"),
            (1200, "JPY", "JP¥1,200", "1 200 ¥"),
            (1234567, "KWD", "KWD 1,234.567", "1 234,567 KWD"),
            (123400, "HUF", "HUF 1,234.00", "1 234,00 Ft"),
            (-250, "EUR", "-€2.50", "-2,50 EUR"),
            (-123400, "HUF", "-HUF 1,234.00", "-1 234,00 Ft"),
            (0, "EUR", "€0.00", "0,00 EUR"),
            (1, "EUR", "€0.01", "0,01 EUR"),
            # People pay these without decimals; the books keep them with.
            (1234, "IQD", "IQD 1.234", "1,234 IQD"),
            (1234, "RSD", "RSD 12.34", "12,34 RSD"),
            (9_223_372_036_854_775_807, "EUR", "€92,233,720,368,547,758.07", None),
        ],
    )
    def test_has_the_decimals_of_its_currency(
        self, amount_minor: int, currency: str, english: str, hungarian: str | None
    ) -> None:
        def written(locale: str) -> str:
            return formats.money(amount_minor, currency, locale).replace("\N{NO-BREAK SPACE}", " ")

        assert written("en") == english
        if hungarian:
            assert written("hu") == hungarian

    @pytest.mark.parametrize("currency", sorted(CURRENCIES))
    def test_shows_every_minor_unit_of_every_currency(self, currency: str) -> None:
        shown = formats.money(987654321, currency, "en")

        digits = "".join(letter for letter in shown if letter.isdigit())
        decimals = shown.rpartition(".")[2] if "." in shown else ""
        assert digits == "987654321"
        assert len(decimals) == exponent(currency)

    @given(
        amount_minor=st.integers(-(10**15), 10**15),
        currency=st.sampled_from(sorted(CURRENCIES)),
        locale=st.sampled_from(["en", "hu"]),
    )
    def test_is_what_babel_writes(self, amount_minor: int, currency: str, locale: str) -> None:
        decimals = exponent(currency)
        pattern = formats._currency_pattern(locale, currency)

        by_babel = pattern.apply(
            Decimal(amount_minor).scaleb(-decimals),
            formats.babel_locale(locale),
            currency=currency,
            currency_digits=False,
        )

        assert formats.money(amount_minor, currency, locale) == by_babel


class TestInstant:
    @pytest.mark.parametrize(
        ("locale", "time_zone", "written"),
        [
            ("en", "Europe/Budapest", "1 November 2026, 06:12 (Europe/Budapest)"),
            ("hu", "Europe/Budapest", "2026. november 1., 06:12 (Europe/Budapest)"),
            ("en", "UTC", "1 November 2026, 05:12 (UTC)"),
            ("en", "America/Los_Angeles", "31 October 2026, 22:12 (America/Los_Angeles)"),
            ("hu", "Pacific/Kiritimati", "2026. november 1., 19:12 (Pacific/Kiritimati)"),
            ("en", "Asia/Kathmandu", "1 November 2026, 10:57 (Asia/Kathmandu)"),
        ],
    )
    def test_is_written_in_the_reader_s_language_and_zone(
        self, locale: str, time_zone: str, written: str
    ) -> None:
        moment = datetime(2026, 11, 1, 5, 12, tzinfo=dt.UTC)

        assert formats.instant(moment, locale, time_zone) == written

    def test_a_date_is_the_day_it_is_in_the_reader_s_zone(self) -> None:
        moment = datetime(2026, 10, 31, 23, 30, tzinfo=dt.UTC)

        assert formats.date(moment, "en", "Europe/Budapest") == "1 November 2026"
        assert formats.date(moment, "hu", "UTC") == "2026. október 31."

    def test_a_period_is_its_month(self) -> None:
        assert formats.period(dt.date(2026, 10, 1), "en") == "October 2026"
        assert formats.period(dt.date(2026, 10, 1), "hu") == "2026. október"


class TestReader:
    @pytest.mark.parametrize(
        ("language", "locale"),
        [("en", "en"), ("hu", "hu"), ("hu-HU", "hu"), ("en-US", "en"), ("tlh", "en"), ("", "en")],
    )
    def test_reads_the_language_of_ours_that_is_closest(self, language: str, locale: str) -> None:
        assert Reader.of(Account(language=language)).locale == locale

    def test_writes_everything_for_the_account(self) -> None:
        reader = Reader.of(Account(language="hu", time_zone="Europe/Budapest"))
        moment = datetime(2026, 11, 1, 5, 12, tzinfo=dt.UTC)

        assert reader.money(1000, "EUR") == "10,00\N{NO-BREAK SPACE}EUR"
        assert reader.instant(moment) == "2026. november 1., 06:12 (Europe/Budapest)"
        assert reader.date(moment) == "2026. november 1."
        assert reader.period(dt.date(2026, 10, 1)) == "2026. október"
