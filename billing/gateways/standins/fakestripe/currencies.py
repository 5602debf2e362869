"""Which amounts Stripe takes, by currency. Data, not certainty: see `docs/fakestripe.md`."""

from billing.gateways.standins.fakestripe.errors import invalid

TWO_DECIMALS = (
    "usd aed afn all amd ang aoa ars aud awg azn bam bbd bdt bgn bmd bnd bob brl bsd bwp byn bzd"
    " cad cdf chf cny cop crc cve czk dkk dop dzd egp etb eur fjd fkp gbp gel gip gmd gtq gyd hkd"
    " hnl htg huf idr ils inr jmd kes kgs khr kyd kzt lak lbp lkr lrd lsl mad mdl mkd mmk mnt mop"
    " mur mvr mwk mxn myr mzn nad ngn nio nok npr nzd pab pen pgk php pkr pln qar ron rsd rub sar"
    " sbd scr sek sgd shp sle sos srd std szl thb tjs top try ttd twd tzs uah uyu uzs wst xcd yer"
    " zar zmw"
)
ZERO_DECIMALS = "bif clp djf gnf jpy kmf krw mga pyg rwf vnd vuv xaf xof xpf"
THREE_DECIMALS = ("bhd", "jod", "kwd", "omr", "tnd")
# Without decimals, but sent as if they had two.
SENT_WITH_TWO = ("isk", "ugx")
# Charged with two decimals, paid out without.
PAID_OUT_WHOLE = ("huf", "twd")
CURRENCIES = {*TWO_DECIMALS.split(), *ZERO_DECIMALS.split(), *THREE_DECIMALS, *SENT_WITH_TWO}

# The least that can be charged; where none is listed, nothing is known, and 1 is let pass.
MINIMUM = {
    "usd": 50, "eur": 50, "gbp": 30, "jpy": 50, "aed": 200, "aud": 50, "bgn": 100, "brl": 50,
    "cad": 50, "chf": 50, "czk": 1500, "dkk": 250, "hkd": 400, "huf": 17500, "inr": 50,
    "mxn": 1000, "myr": 200, "nok": 300, "nzd": 50, "pln": 200, "ron": 200, "sek": 300,
    "sgd": 50, "thb": 1000,
}  # fmt: skip
MAXIMUM = 99_999_999


def check_currency(currency: str) -> str:
    """
    The currency in Stripe's small letters.

    :raises ApiError: if it is not one that Stripe charges in.
    """
    code = currency.lower()
    if code not in CURRENCIES:
        raise invalid(f"Invalid currency: {code}.", param="currency")
    return code


def check_amount(amount: int, currency: str) -> None:
    """
    Let an amount pass that can be charged.

    :raises ApiError: if it is too small, too large, or finer than its currency allows.
    """
    if amount < 1:
        raise invalid("Invalid positive integer", param="amount", code="parameter_invalid_integer")
    check_decimals(amount, currency)
    if amount < MINIMUM.get(currency, 1):
        raise invalid(
            f"Amount must be at least {MINIMUM[currency]} {currency}",
            param="amount",
            code="amount_too_small",
        )
    if amount > MAXIMUM:
        raise invalid(
            f"Amount must be no more than {MAXIMUM} {currency}",
            param="amount",
            code="amount_too_large",
        )


def check_decimals(amount: int, currency: str) -> None:
    """
    Let an amount pass that its currency can express, be it charged or refunded.

    :raises ApiError: if it is finer.
    """
    if currency in THREE_DECIMALS and amount % 10:
        raise invalid(f"The last digit of an amount in {currency} must be 0.", param="amount")
    if currency in SENT_WITH_TWO and amount % 100:
        raise invalid(
            f"{currency} has no decimals: its amount must be divisible by 100.",
            param="amount",
            code="invalid_charge_amount_no_decimal_compatible",
        )
