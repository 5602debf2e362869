"""
The steps of the close, on one screen.

    invoice ──▶ charge ──▶ hold
       └──────▶ email                 … and when no account step is open: report, once per run

Each is readied by the one it follows, in the transaction that finished that one. Which there are says the
setting CLOSE_STEPS: an installation adds one of its own there (docs/extending.md).
"""

import re
from collections.abc import Sequence
from dataclasses import fields
from importlib import import_module
from types import ModuleType
from typing import cast

from django.core.exceptions import ImproperlyConfigured

from billing import step_kinds
from billing.close.step import ChunkModule, FlowModule
from billing.step_kinds import StepKind
from billing.workers import doorbell

# In their order; see `install`.
STEPS: tuple[ChunkModule | FlowModule, ...] = ()
BY_KIND: dict[str, ChunkModule | FlowModule] = {}


class NoSuchStep(ImproperlyConfigured):
    """CLOSE_STEPS names what cannot be a step, or not there; the message says which and why."""

    def __init__(self, path: str, because: str) -> None:
        super().__init__(f"CLOSE_STEPS: {path}: {because}")


def install(paths: Sequence[str]) -> None:
    """
    Have the close do the steps of these modules, in this order; and no other.

    :raises NoSuchStep: for a module that is no step, or does not go with the others.
    """
    global STEPS  # noqa: PLW0603 - set once, when the project starts
    modules = [import_module(path) for path in paths]
    described: list[StepKind] = []
    for path, module in zip(paths, modules, strict=True):
        described.append(_describe(path, module, before=described))
    if sum(each.is_per_run for each in described) != 1:
        raise NoSuchStep(", ".join(paths), "exactly one must be per run, and end it")
    STEPS = cast("tuple[ChunkModule | FlowModule, ...]", tuple(modules))
    BY_KIND.clear()
    BY_KIND.update({step.kind: step for step in STEPS})
    step_kinds.install(described)


def _describe(path: str, module: ModuleType, *, before: Sequence[StepKind]) -> StepKind:
    names = [field.name for field in fields(StepKind)]
    works = ["open_flow"] if hasattr(module, "open_flow") else ["perform", "batch"]
    if missing := [name for name in (*names, *works) if not hasattr(module, name)]:
        raise NoSuchStep(path, f"it does not say {', '.join(missing)} (billing/close/step.py)")
    described = StepKind(**{name: getattr(module, name) for name in names})
    if because := _unfit(described, before):
        raise NoSuchStep(path, because)
    return described


# They stand in URLs, in rows and on command lines.
KIND = re.compile(rf"[A-Z][A-Z0-9_]{{0,{step_kinds.LENGTH - 1}}}")
QUEUE = re.compile(rf"[a-z][a-z0-9_-]{{0,{step_kinds.LENGTH - 1}}}")


def _unfit(described: StepKind, before: Sequence[StepKind]) -> str:
    """Why it cannot be a step after those before it; empty: it can."""
    if not KIND.fullmatch(described.kind):
        return (
            f"its kind {described.kind!r} is not {step_kinds.LENGTH} capitals, digits or _ at most"
        )
    if not QUEUE.fullmatch(described.queue) or described.queue == doorbell.SCHEDULES:
        return f"{described.queue!r} cannot be the name of a queue"
    if described.kind in {each.kind for each in before}:
        return f"there is a {described.kind} already"
    if described.is_per_run and (described.follows is not None or described.touches_the_world):
        return "one that is per run follows all others, and calls nobody"
    ahead = {each.kind for each in before if not each.is_per_run}
    if described.follows is not None and described.follows not in ahead:
        return f"it follows {described.follows}, which no step of an account listed before it is"
    if described.through is not step_kinds.Through.NOBODY and not described.touches_the_world:
        return "what goes through a provider touches the world"
    return ""
