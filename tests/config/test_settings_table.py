"""Every setting that is read from the environment stands in docs/operations.md, with its default."""

import ast
import re
from collections.abc import Iterator

import pytest
from django.conf import settings

PAGE = settings.BASE_DIR / "docs" / "operations.md"
READERS = {"env": "config/settings/base.py", "environ": "config/cluster.py"}
ROW = re.compile(
    r"^\| `(?P<name>[A-Z_]+)` \| (?P<default>.*?) \| (?P<meaning>.*?) \|$", re.MULTILINE
)
COMPUTED = object()


def read_settings() -> dict[str, object]:
    """The names that the code reads, and their defaults; COMPUTED where it is no plain value."""
    found: dict[str, object] = {}
    for reader, path in READERS.items():
        for call in calls(ast.parse((settings.BASE_DIR / path).read_text()), reader):
            name = call.args[0]
            if isinstance(name, ast.Constant) and str(name.value).isupper():
                # DATABASE_URL is asked for twice: whether it is there, then for what it says.
                found.setdefault(name.value, default_of(call))
    return found


def calls(tree: ast.AST, reader: str) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            owner = node.func.value
            if getattr(owner, "id", getattr(owner, "attr", None)) == reader:
                yield node


def default_of(call: ast.Call) -> object:
    default = next(
        (keyword.value for keyword in call.keywords if keyword.arg == "default"), call.args[-1]
    )
    try:
        return ast.literal_eval(default)
    except ValueError:
        return COMPUTED


def as_written(default: object) -> str:
    match default:
        case "" | []:
            return "empty"
        case bool():
            return f"`{str(default).lower()}`"
        case list():
            return f"`{','.join(default)}`"
        case _:
            return f"`{default}`"


READ = read_settings()
TOLD = {row["name"]: row for row in ROW.finditer(PAGE.read_text())}


def test_the_table_names_what_the_code_reads_and_nothing_else() -> None:
    assert sorted(TOLD) == sorted({*READ, "CLUSTER_QUEUES"})


@pytest.mark.parametrize("name", sorted(READ))
def test_the_table_says_the_default(name: str) -> None:
    if READ[name] is COMPUTED:
        assert TOLD[name]["default"]
    else:
        assert TOLD[name]["default"] == as_written(READ[name])


def test_the_example_sets_only_what_exists() -> None:
    example = (settings.BASE_DIR / ".env.example").read_text()

    names = re.findall(r"^#? ?([A-Z_]+)=", example, re.MULTILINE)

    assert names
    assert set(names) <= set(TOLD)
