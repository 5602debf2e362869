import os
import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.management import call_command
from django.utils import translation

from config import locale_catalogs

PO = """
msgid ""
msgstr ""
"Content-Type: text/plain; charset=utf-8\\n"
"Language: hu\\n"
"Plural-Forms: nplurals=1; plural=0;\\n"

"""


@pytest.fixture
def project(settings: Any, tmp_path: Path) -> Path:
    """A project of one template and one module, with an empty Hungarian catalogue."""
    settings.BASE_DIR, settings.LOCALE_PATHS = tmp_path, [tmp_path / "locale"]
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "page.html").write_text(
        "{% load i18n %}\n  <p>{% translate 'Hello' %}</p>\n"
        "{% blocktranslate with n=name %}Dear {{ n }}{% endblocktranslate %}\n"
        "{% blocktranslate count c=c %}one{% plural %}{{ c }} things{% endblocktranslate %}"
    )
    (tmp_path / "billing").mkdir()
    (tmp_path / "billing" / "code.py").write_text(
        "WORDS = _('Word')\nIN = pgettext('of a', 'Word')\n"
    )
    po = tmp_path / "locale" / "hu" / "LC_MESSAGES" / "django.po"
    po.parent.mkdir(parents=True)
    po.write_text(PO)
    return po


def ids(strings: Any) -> list[Any]:
    return [string.id for string in strings if string.id]


@pytest.mark.parametrize("language", ["hu"])
def test_every_string_of_the_mails_the_pages_and_the_code_is_translated(language: str) -> None:
    assert len(locale_catalogs.extract()) > 200
    assert ids(locale_catalogs.missing(language)) == []


def test_hungarian_has_one_word_for_a_hold_and_guesses_no_article() -> None:
    said = (Path(django_settings.LOCALE_PATHS[0]) / "hu/LC_MESSAGES/django.po").read_text().lower()

    assert "korlátoz" in said
    assert not re.findall(r"felfüggeszt|zárol|letilt(?!otta)|a\(z\)", said)


def test_what_is_compiled_is_what_django_says() -> None:
    with translation.override("hu"):
        assert translation.gettext("Pay now") == "Fizetés most"


class TestMissing:
    def test_finds_the_strings_of_templates_and_code(self, project: Path) -> None:
        assert ids(locale_catalogs.missing("hu")) == [
            "Word",
            "Word",
            "Hello",
            "Dear %(n)s",
            ("one", "%(c)s things"),
        ]

    @pytest.mark.parametrize(
        "entry",
        [
            'msgid "Dear %(n)s"\nmsgstr ""\n',
            '#, fuzzy\nmsgid "Dear %(n)s"\nmsgstr "Kedves %(n)s"\n',
            'msgid "Dear %(n)s"\nmsgstr "Kedves %(name)s"\n',
            'msgid "Dear %(n)s"\nmsgstr "Kedves"\n',
            'msgid "Dear %(n)s"\nmsgstr "Kedves %(n)02d"\n',
        ],
        ids=["empty", "fuzzy", "another placeholder", "no placeholder", "another format"],
    )
    def test_what_would_not_be_said_rightly_counts_as_missing(
        self, project: Path, entry: str
    ) -> None:
        project.write_text(PO + entry)

        assert "Dear %(n)s" in ids(locale_catalogs.missing("hu"))

    def test_what_is_translated_is_not_missing(self, project: Path) -> None:
        project.write_text(
            PO
            + 'msgid "Dear %(n)s"\nmsgstr "Kedves %(n)s"\n\n'
            + 'msgctxt "of a"\nmsgid "Word"\nmsgstr "Szó"\n\n'
            + 'msgid "one"\nmsgid_plural "%(c)s things"\nmsgstr[0] "%(c)s dolog"\n'
        )

        assert ids(locale_catalogs.missing("hu")) == ["Word", "Hello"]


class TestCompileCatalogs:
    def test_compiles_what_is_new_once(self, project: Path) -> None:
        mo = project.with_suffix(".mo")

        assert locale_catalogs.compile_catalogs() == [mo]
        assert mo.read_bytes()[:4] in {b"\xde\x12\x04\x95", b"\x95\x04\x12\xde"}
        assert locale_catalogs.compile_catalogs() == []
        assert set(project.parent.iterdir()) == {project, mo}

    def test_compiles_again_what_was_edited_since(self, project: Path) -> None:
        locale_catalogs.compile_catalogs()
        later = project.with_suffix(".mo").stat().st_mtime + 10
        os.utime(project, (later, later))

        assert len(locale_catalogs.compile_catalogs()) == 1


class TestCommand:
    def test_compiles(self, project: Path) -> None:
        said = StringIO()

        call_command("compile_catalogs", stdout=said)

        assert said.getvalue() == f"Compiled {project.with_suffix('.mo')}\n"

    def test_lists_what_is_missing_ready_to_be_filled_in(self, project: Path) -> None:
        said = StringIO()

        with pytest.raises(SystemExit) as ended:
            call_command("compile_catalogs", "--missing", stdout=said)

        assert ended.value.code == 1
        assert said.getvalue().startswith("# hu: 5 strings to translate\n")
        assert '#: templates/page.html:2\nmsgid "Hello"\nmsgstr ""\n' in said.getvalue()

    def test_is_content_where_nothing_is_missing(self, project: Path) -> None:
        for page in (project.parents[3] / "templates").iterdir():
            page.write_text("nothing to say")
        (project.parents[3] / "billing" / "code.py").write_text("")

        with pytest.raises(SystemExit) as ended:
            call_command("compile_catalogs", "--missing", stdout=StringIO())

        assert ended.value.code == 0
