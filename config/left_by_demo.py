"""What `manage.py demo` leaves beside the database: a payment provider of our own on this machine."""

import json
from pathlib import Path
from typing import Any


def provider(folder: Path) -> dict[str, Any]:
    """
    Return the settings that charge through the provider which the demo has left in a folder; none if it left none.

    Reads the file that the provider keeps of itself, so that settings import nothing of it.
    """
    try:
        said = json.loads((folder / "provider.json").read_text())
    except FileNotFoundError:
        return {}
    return {
        "STRIPE_SECRET_KEY": said["secret_key"],
        "STRIPE_WEBHOOK_SECRETS": [said["webhook_secret"]],
        "STRIPE_API_BASE": f"http://127.0.0.1:{said['port']}",
    }
