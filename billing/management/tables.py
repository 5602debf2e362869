"""Plain text tables for commands."""

from collections.abc import Mapping, Sequence
from typing import Any

from billing import step_kinds
from billing.models import Step


def text(rows: Sequence[Mapping[str, Any]], *, none: str) -> str:
    """Lay out rows of equal keys in columns; `none` where there are no rows."""
    if not rows:
        return none
    heads = list(rows[0])
    cells = [[head.replace("_", " ") for head in heads]]
    cells += [[str(row[head]) for head in heads] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(heads))]
    right = [_is_number(rows[0][head]) for head in heads]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in cells
    )


def steps(by_kind: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    """The steps of a run, a row per kind and a column per state that occurs."""
    states = [s for s in Step.State.values if any(s in counts for counts in by_kind.values())]
    return [
        {
            "step": step_kinds.title(kind),
            **{state.lower(): counts.get(state, 0) for state in states},
        }
        for kind, counts in by_kind.items()
    ]


def _is_number(value: object) -> bool:
    return isinstance(value, int) or (
        isinstance(value, str) and value.lstrip("-").replace(".", "", 1).isdigit()
    )
