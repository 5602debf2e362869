"""docs/evidence.md, made from the files in docs/evidence."""

import json
from pathlib import Path
from typing import Any

from tests.evidence.parts import PARTS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "evidence"
PAGE = ROOT / "docs" / "evidence.md"

HEAD = """# Evidence

What was run against the promise that nobody is charged twice and no payment is lost, and what it gave. This
page is made by `make evidence` from the files in [evidence](evidence/); anybody can run it again, whole or a
part: `make evidence ONLY=sabotage`. What each part proves, and what not, is said in [payments](payments.md#the-evidence).

A random search that found nothing in N tries says that a fault is rarer than about 3 in N, with 95 %
confidence, and no more than that. The crash sweep and the model check leave nothing out within their bounds.
"""


def read() -> dict[str, dict[str, Any]]:
    """What is known of each part, by its name."""
    return {path.stem: json.loads(path.read_text()) for path in FOLDER.glob("*.json")}


def made(found: dict[str, dict[str, Any]]) -> str:
    """The page."""
    return "\n".join([HEAD, *(_section(part, found.get(part.name)) for part in PARTS)])


def _section(part: Any, told: dict[str, Any] | None) -> str:
    lines = [f"## {part.name.replace('-', ' ').capitalize()}", "", part.promise, ""]
    if told is None:
        return "\n".join([*lines, "Not run yet.", ""])
    flat = {name: value for name, value in told["figures"].items() if not isinstance(value, dict)}
    ran = (
        f"The {told['size']} version, on {told['date']} at commit {told['commit']}, {told['cores']} cores,"
        f" {told['seconds']:,} s: `{told['command']}`"
    )
    lines += [
        "| " + " | ".join(flat) + " |",
        "| " + " | ".join("---:" for _ in flat) + " |",
        "| " + " | ".join(f"{value:,}" for value in flat.values()) + " |",
        "",
        ran,
        "",
    ]
    for name, counts in told["figures"].items():
        if isinstance(counts, dict):
            said = ", ".join(f"{count:,} {what}" for what, count in sorted(counts.items()))
            lines += [f"{name.capitalize()}: {said}.", ""]
    return "\n".join(lines)
