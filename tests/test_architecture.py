"""What holds for the project as a whole: which app knows which, what a step is, what the docs speak of."""

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.conf import settings
from django.core.management import get_commands
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from billing.close import pipeline, steps
from billing.close.step import ChunkModule, FlowModule, StepModule

ROOT = settings.BASE_DIR
# Outermost first: each knows only those after it.
APPS = ("config", "billing", "notifications", "accounts")
SKIPPED = {".venv", ".data", ".git", "staticfiles", "node_modules", ".pytest_cache"}


def files(pattern: str) -> Iterator[Path]:
    """Files of the project. What is skipped is not even looked into: a database changes meanwhile."""
    yield from sorted(ROOT.glob(pattern))
    for folder in sorted(ROOT.iterdir()):
        if folder.is_dir() and folder.name not in SKIPPED:
            yield from sorted(folder.rglob(pattern))


# --- apps


def relations() -> list[Any]:
    """Every relation of a model of ours to another model, however it was spelt."""
    return [
        pytest.param(model._meta.app_label, field.related_model._meta.app_label, id=str(field))
        for model in apps.get_models(include_auto_created=True)
        if model._meta.app_label in APPS
        for field in model._meta.get_fields()
        if field.is_relation and not field.auto_created and field.related_model is not None
    ]


@pytest.mark.parametrize(("from_app", "to_app"), relations())
def test_models_point_downwards(from_app: str, to_app: str) -> None:
    if to_app in APPS:
        assert APPS.index(from_app) <= APPS.index(to_app)


def test_there_are_relations_to_look_at() -> None:
    assert len(relations()) > 30


def test_imports_point_downwards() -> None:
    linted = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert linted.returncode == 0, linted.stdout + linted.stderr


# --- steps of the close

STEP_MODULES = [name for _, name, _ in pkgutil.iter_modules(steps.__path__)]


@pytest.mark.parametrize("name", STEP_MODULES)
def test_a_step_is_what_the_runner_expects(name: str) -> None:
    module = importlib.import_module(f"billing.close.steps.{name}")

    contract = FlowModule if isinstance(module, FlowModule) else ChunkModule
    for attribute, kind in (StepModule.__annotations__ | contract.__annotations__).items():
        assert isinstance(getattr(module, attribute), kind), attribute
    assert callable(module.open_flow if contract is FlowModule else module.perform)
    assert module in pipeline.STEPS
    assert module.kind == name.upper()


# --- how it is written

CODE = [
    path
    for app in APPS
    for path in sorted((ROOT / app).rglob("*.py"))
    if "migrations" not in path.parts
]


def test_docstrings_say_what_is_done_and_not_that_it_will_be() -> None:
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    told = [
        f"{path.relative_to(ROOT)}: {said}"
        for path in CODE
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, documented) and (said := ast.get_docstring(node) or "")
    ]

    assert len(told) > 1000
    assert [each for each in told if ": This will " in each] == []


def test_code_names_files_that_exist() -> None:
    named = [
        (path, name)
        for path in [*CODE, *sorted((ROOT / "billing").rglob("*.sql"))]
        for name in re.findall(
            r"\b(?:accounts|billing|config|docs|notifications|tests)/[\w/-]+\.(?:py|md|sql)\b",
            path.read_text(),
        )
    ]

    assert len(named) > 50
    assert [
        f"{path.relative_to(ROOT)}: {name}" for path, name in named if not (ROOT / name).exists()
    ] == []


# Told apart by their folder, and named after what they are about: `views/customer/usage.py`.
FACES_AND_MODELS = {
    "admin",
    "api",
    "demo",
    "management",
    "migrations",
    "models",
    "standins",
    "views",
}
# A charge and a refund go through the same phases, which are named alike.
PHASES = {"billing/payments/charges", "billing/payments/refunds"}


def domain_modules() -> dict[str, set[str]]:
    """By name: the folders in which a module or package of that name stands."""
    folders = defaultdict(set)
    for path in CODE:
        module = path.relative_to(ROOT).with_suffix("")
        if module.name == "__init__":
            module = module.parent
        if module.parts[0] != "config" and not FACES_AND_MODELS & set(module.parts):
            folders[module.name].add(str(module.parent))
    return folders


def test_no_two_domain_modules_share_a_name() -> None:
    modules = domain_modules()
    # Django wants one in each app.
    del modules["apps"]

    assert len(modules) > 100
    assert {
        name: folders
        for name, folders in modules.items()
        if len(folders) > 1 and not folders <= PHASES
    } == {}


# --- what is installed


def test_the_lock_holds_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    runtime = project["project"]["dependencies"]
    everything = [*runtime, *project["dependency-groups"]["dev"]]

    for wanted, file in ((runtime, "runtime.txt"), (everything, "dev.txt")):
        locked = dict(
            re.findall(
                r"^([\w.-]+)==([^ ;]+)", (ROOT / "requirements" / file).read_text(), re.MULTILINE
            )
        )
        for requirement in map(Requirement, wanted):
            version = locked.get(canonicalize_name(requirement.name))
            assert version, f"{requirement.name} is not in requirements/{file}: run make lock"
            assert requirement.specifier.contains(version), f"{requirement}: run make lock"


def test_the_lock_says_nothing_of_the_machine_it_was_made_on() -> None:
    for file in (ROOT / "requirements").iterdir():
        assert not re.search(
            r"://|--(extra-)?index|--find-links|(^|\s)/", file.read_text(), re.MULTILINE
        )


# --- what is written about it

LINK = re.compile(r"\]\((?!https?:|mailto:)(?P<path>[^)#\s]*)(?:#(?P<anchor>[^)\s]*))?\)")
PAGES = list(files("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
class TestPages:
    def test_link_to_what_exists(self, page: Path) -> None:
        for link in LINK.finditer(page.read_text()):
            target = (page.parent / link["path"]).resolve() if link["path"] else page
            assert target.exists(), f"{page.name} links to {link['path']}, which is not there"
            if link["anchor"]:
                assert link["anchor"] in anchors(target)

    def test_name_tests_that_exist(self, page: Path) -> None:
        assert set(re.findall(r"`(test_\w+)`", page.read_text())) <= names_of_tests()

    def test_name_paths_that_exist(self, page: Path) -> None:
        for path in re.findall(
            r"`((?:accounts|billing|config|docs|notifications|requirements|templates|tests)/[\w/.-]+)`",
            page.read_text(),
        ):
            assert (ROOT / path).exists(), f"{page.name} speaks of {path}, which is not there"

    def test_name_commands_that_exist(self, page: Path) -> None:
        named = set(re.findall(r"manage\.py ([a-z_]+)", page.read_text()))

        assert named <= commands()


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def names_of_tests() -> set[str]:
    trees = [ast.parse(path.read_text()) for path in files("test_*.py")]
    functions = {
        node.name
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
    return functions | {path.stem for path in files("test_*.py")}


def commands() -> set[str]:
    """Ours and Django's."""
    return set(get_commands())
