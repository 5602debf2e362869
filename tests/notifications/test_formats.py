import datetime as dt
from datetime import datetime
from decimal import Decimal
from zoneinfo import available_timezones

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
            (123400, "HUF", "HUF 1,234", "1 234 Ft"),
            (123450, "HUF", "HUF 1,234.50", "1 234,50 Ft"),
            (-250, "EUR", "-€2.50", "-2,50 EUR"),
            (-123400, "HUF", "-HUF 1,234", "-1 234 Ft"),
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
        if currency == "HUF" and not amount_minor % 100:
            pattern.frac_prec = (0, 0)

        by_babel = pattern.apply(
            Decimal(amount_minor).scaleb(-decimals),
            formats.babel_locale(locale),
            currency=currency,
            currency_digits=False,
        )

        assert formats.money(amount_minor, currency, locale) == by_babel


class TestUnitPrice:
    @pytest.mark.parametrize(
        ("price", "currency", "english", "hungarian"),
        [
            ("0.0116", "USD", "US$0.0116", "0,0116 USD"),
            ("2", "EUR", "€2.00", "2,00 EUR"),
            ("1234.5", "EUR", "€1,234.50", "1 234,50 EUR"),
            ("0.000000000001", "EUR", "€0.000000000001", "0,000000000001 EUR"),
            ("400.0", "HUF", "HUF 400", "400 Ft"),
            ("0.5", "HUF", "HUF 0.50", "0,50 Ft"),
            ("3", "JPY", "JP¥3", "3 ¥"),
            ("0.25", "JPY", "JP¥0.25", "0,25 ¥"),
            ("-0.5", "EUR", "-€0.50", "-0,50 EUR"),
        ],
    )
    def test_is_written_as_amounts_are_with_all_its_decimals(
        self, price: str, currency: str, english: str, hungarian: str
    ) -> None:
        def written(locale: str) -> str:
            said = formats.unit_price(Decimal(price), currency, locale)
            return said.replace("\N{NO-BREAK SPACE}", " ")

        assert (written("en"), written("hu")) == (english, hungarian)


ALL_ZONES = sorted(available_timezones() - {"localtime", "Factory"})


class TestPlace:
    @pytest.mark.parametrize("locale", ["en", "hu"])
    def test_is_never_a_name_from_the_database_of_zones(self, locale: str) -> None:
        places = {zone: formats.place(zone, locale) for zone in ALL_ZONES}

        assert not [place for place in places.values() if "/" in place or "_" in place or not place]


class TestInstant:
    @pytest.mark.parametrize(
        ("locale", "time_zone", "written"),
        [
            ("en", "Europe/Budapest", "1 November 2026, 06:12 (Budapest)"),
            ("hu", "Europe/Budapest", "2026. november 1., 06:12 (Budapest)"),
            ("en", "UTC", "1 November 2026, 05:12 (UTC)"),
            ("en", "America/Los_Angeles", "31 October 2026, 22:12 (Los Angeles)"),
            ("hu", "Pacific/Kiritimati", "2026. november 1., 19:12 (Kiritimati-sziget)"),
            ("en", "Asia/Kathmandu", "1 November 2026, 10:57 (Kathmandu)"),
            ("hu", "Asia/Tokyo", "2026. november 1., 14:12 (Tokió)"),
            ("en", "Etc/GMT+5", "1 November 2026, 00:12 (UTC-5)"),
            ("en", "America/Argentina/Buenos_Aires", "1 November 2026, 02:12 (Buenos Aires)"),
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
        assert reader.instant(moment) == "2026. november 1., 06:12 (Budapest)"
        assert reader.date(moment) == "2026. november 1."
        assert reader.period(dt.date(2026, 10, 1)) == "2026. október"
