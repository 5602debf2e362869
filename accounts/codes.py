"""Stored codes as people read them."""

import re

CODE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")


def spelled_out(code: str) -> str:
    """ "PAY_NOW" → "Pay now"; what is no such code stays as it is."""
    return code.replace("_", " ").capitalize() if CODE.fullmatch(code) else code
