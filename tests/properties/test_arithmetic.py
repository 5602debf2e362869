"""What holds for every amount, price and month, not only for those we thought of."""

from datetime import date
from decimal import Decimal
from fractions import Fraction
from zoneinfo import available_timezones

from hypothesis import given, settings
from hypothesis import strategies as st

from billing import money, periods, pricing

CURRENCIES = st.sampled_from(["EUR", "JPY", "KWD", "CLF", "USD", "HUF"])
AMOUNTS = st.decimals(
    min_value=Decimal("-1e20"), max_value=Decimal("1e20"), places=27, allow_nan=False
)
QUANTITIES = st.decimals(min_value=Decimal("-1e9"), max_value=Decimal("1e9"), places=15)
PRICES = st.decimals(min_value=0, max_value=Decimal("1e6"), places=12)
MONTHS = st.dates(min_value=date(1995, 1, 1), max_value=date(2037, 12, 1)).map(
    lambda day: day.replace(day=1)
)
ZONES = st.sampled_from(sorted(available_timezones() - {"localtime"}))

many = settings(max_examples=200, deadline=None)


@many
@given(AMOUNTS, CURRENCIES)
def test_rounding_moves_an_amount_by_half_a_minor_unit_at_most(amount, currency):
    minor = money.round_half_up(amount, currency)

    exact = Fraction(amount) * 10 ** money.exponent(currency)
    assert abs(minor - exact) <= Fraction(1, 2)
    if abs(minor - exact) == Fraction(1, 2):
        assert abs(minor) > abs(exact), "a half goes away from zero"


@many
@given(AMOUNTS, CURRENCIES)
def test_rounding_knows_no_side(amount, currency):
    assert money.round_half_up(-amount, currency) == -money.round_half_up(amount, currency)


@many
@given(st.integers(min_value=-(10**18), max_value=10**18), CURRENCIES)
def test_minor_units_go_out_and_come_back(minor, currency):
    assert money.to_minor(money.to_major(minor, currency), currency) == minor
    assert money.round_half_up(money.to_major(minor, currency), currency) == minor


@many
@given(QUANTITIES, PRICES, QUANTITIES)
def test_what_is_free_and_what_is_paid_are_all_there_is(quantity, unit_price, free_quantity):
    priced = pricing.by_unit(quantity, unit_price=unit_price, free_quantity=free_quantity)

    paid = Fraction(quantity) - Fraction(priced.free_quantity)
    assert Fraction(priced.amount) == paid * Fraction(unit_price)
    assert 0 <= priced.free_quantity <= max(quantity, 0)
    assert priced.free_quantity <= max(free_quantity, 0)


@many
@given(QUANTITIES, QUANTITIES, PRICES)
def test_using_more_never_costs_less(one, other, unit_price):
    less, more = sorted((one, other))

    cheap, dear = (pricing.by_unit(q, unit_price=unit_price, free_quantity=5) for q in (less, more))

    assert cheap.amount <= dear.amount


@many
@given(MONTHS, ZONES)
def test_the_months_of_a_zone_tile(month, zone):
    after = periods.next_month(month)

    assert periods.ends_at(month, zone) == periods.starts_at(after, zone)
    assert periods.starts_at(month, zone) < periods.ends_at(month, zone)
    assert periods.previous_month(after) == month


@many
@given(MONTHS, st.lists(ZONES, max_size=4), st.data())
def test_the_latest_month_over_is_over_and_its_next_is_not(month, zones, data):
    end = periods.closes_at(month, zones)
    as_of = data.draw(
        st.datetimes(
            min_value=end.replace(tzinfo=None),
            max_value=periods.closes_at(periods.next_month(month), zones).replace(tzinfo=None),
        )
    ).replace(tzinfo=end.tzinfo)

    latest = periods.latest_month_over(as_of, zones)

    assert periods.closes_at(latest, zones) <= as_of
    assert as_of < periods.closes_at(periods.next_month(latest), zones)
