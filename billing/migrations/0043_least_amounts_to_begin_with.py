"""
About half a dollar in every currency, and never less than Stripe charges.

Below that a card costs more than it brings, and most providers refuse it. In minor units: two decimals where
nothing else is said beside the group.
"""

from django.db import migrations

LEAST = {
    # No decimals.
    "BIF": 1500, "CLP": 500, "DJF": 100, "GNF": 5000, "ISK": 70, "JPY": 50, "KMF": 250, "KRW": 700, "PYG": 4000,
    "RWF": 700, "UGX": 2000, "VND": 13000, "VUV": 60, "XAF": 300, "XOF": 300, "XPF": 60,
    # Three decimals: thousandths that end in 0, since no card network charges finer.
    "BHD": 200, "IQD": 700_000, "JOD": 350, "KWD": 150, "LYD": 2500, "OMR": 200, "TND": 1500,
    # Two.
    "AED": 200, "AUD": 50, "BGN": 100, "BRL": 250, "CAD": 50, "CHF": 50, "CNY": 350, "COP": 200_000, "CZK": 1500,
    "DKK": 250, "EGP": 2500, "EUR": 50, "GBP": 30, "HKD": 400, "HUF": 17_500, "IDR": 800_000, "ILS": 200,
    "INR": 4500, "KES": 6500, "MAD": 500, "MGA": 250_000, "MXN": 1000, "MYR": 200, "NGN": 80_000, "NOK": 300,
    "NZD": 50, "PEN": 200, "PHP": 3000, "PKR": 14_000, "PLN": 200, "QAR": 200, "RON": 200, "RSD": 5500, "SAR": 200,
    "SEK": 300, "SGD": 50, "THB": 1000, "TRY": 2000, "TWD": 1600, "UAH": 2000, "USD": 50, "ZAR": 1000,
}  # fmt: skip


def write(apps, schema_editor):
    model = apps.get_model("billing", "LeastAmount")
    model.objects.bulk_create(
        model(currency=currency, amount_minor=minor) for currency, minor in sorted(LEAST.items())
    )


class Migration(migrations.Migration):
    dependencies = [("billing", "0042_due_dates_least_amounts_and_follow_ups")]

    operations = [migrations.RunPython(write, migrations.RunPython.noop)]
