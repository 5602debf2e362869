"""Tables to download."""

from decimal import Decimal

# A spreadsheet takes a cell that begins so for a formula, and runs it.
DANGEROUS = ("=", "+", "-", "@", "\t", "\r")


def safe_cell(value: object) -> str:
    """
    This will write a cell so that no spreadsheet runs it: text that looks like a formula is quoted.

    Numbers stay numbers, negative ones too: what they are is known from their type.
    """
    match value:
        case None:
            return ""
        case Decimal():
            return format(value, "f")  # never 1E+2
        case int():
            return str(value)
    text = str(value)
    looks_like_a_formula = text.startswith(DANGEROUS) or text.lstrip().startswith(DANGEROUS)
    return f"'{text}" if looks_like_a_formula else text
