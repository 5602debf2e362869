"""Minor units by ISO 4217, and one rounding rule."""

from decimal import Decimal

import pytest

from billing import money
from billing.money import NotWhole, UnknownCurrency
from notifications import formats


class TestExponent:
    @pytest.mark.parametrize(
        ("currency", "decimals"),
        [("EUR", 2), ("USD", 2), ("HUF", 2), ("JPY", 0), ("ISK", 0), ("KWD", 3), ("CLF", 4)],
    )
    def test_is_the_currencys_own(self, currency, decimals):
        assert money.exponent(currency) == decimals

    @pytest.mark.parametrize("code", ["ZZZ", "eur", "", "€"])
    def test_refuses_what_is_no_currency(self, code):
        with pytest.raises(UnknownCurrency, match=r"is not an ISO 4217 code such as 'EUR'"):
            money.exponent(code)


class TestRoundHalfUp:
    @pytest.mark.parametrize(
        ("amount", "currency", "minor"),
        [
            ("12.344999", "EUR", 1234),
            ("12.345", "EUR", 1235),
            ("12.355", "EUR", 1236),
            ("12.365", "EUR", 1237),  # half to even would say 1236
            ("-12.345", "EUR", -1235),
            ("-12.344", "EUR", -1234),
            ("0.5", "JPY", 1),
            ("1.4999", "JPY", 1),
            ("-0.5", "JPY", -1),
            ("0.0005", "KWD", 1),
            ("1.0004", "KWD", 1000),
            ("0", "EUR", 0),
        ],
    )
    def test_goes_away_from_zero_at_the_half(self, amount, currency, minor):
        assert money.round_half_up(Decimal(amount), currency) == minor

    def test_rounds_once_however_many_digits_there_are(self):
        just_under = Decimal("1234567890123456.344" + "9" * 25)

        assert money.round_half_up(just_under, "EUR") == 123456789012345634

    def test_takes_amounts_beyond_any_sum(self):
        assert money.round_half_up(Decimal(10) ** 30, "EUR") == 10**32


class TestToMinor:
    @pytest.mark.parametrize(
        ("amount", "currency", "minor"),
        [("12.34", "EUR", 1234), ("12.3400", "EUR", 1234), ("5", "JPY", 5), ("1.234", "KWD", 1234)],
    )
    def test_is_exact(self, amount, currency, minor):
        assert money.to_minor(Decimal(amount), currency) == minor

    @pytest.mark.parametrize(
        ("amount", "currency"),
        [("12.345", "EUR"), ("0.1", "JPY"), ("1.0001", "KWD"), ("1." + "0" * 30 + "1", "EUR")],
    )
    def test_refuses_to_round(self, amount, currency):
        with pytest.raises(NotWhole, match=f"more decimals than {currency}"):
            money.to_minor(Decimal(amount), currency)


class TestToMajor:
    @pytest.mark.parametrize(
        ("minor", "currency", "amount"),
        [(1200, "EUR", "12.00"), (-1, "EUR", "-0.01"), (5, "JPY", "5"), (1, "KWD", "0.001")],
    )
    def test_keeps_the_currencys_decimals(self, minor, currency, amount):
        assert str(money.to_major(minor, currency)) == amount

    def test_is_the_money_of_faces_and_messages(self):
        shown = money.money(1234, "EUR")

        assert (str(shown.amount), shown.currency.code) == ("12.34", "EUR")

    @pytest.mark.parametrize("currency", ["EUR", "USD", "GBP", "HUF", "JPY", "KWD", "IDR", "CHF"])
    @pytest.mark.parametrize("minor", [0, 5, 123_456_789, -123_456, 987_654_321_012_345_678])
    def test_is_written_in_one_way_whoever_writes_it(self, minor, currency):
        assert str(money.money(minor, currency)) == formats.money(minor, currency, "en")
