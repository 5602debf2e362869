"""A message as a mail: what goes over the wire says what Django's own mail would say."""

import uuid
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifications import mail
from notifications.models import Message

# All of Unicode but what is no text: half characters, and line breaks of other machines than ours.
characters = st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp", "Zs"])
words = st.text(characters, min_size=1, max_size=20).map(lambda word: f"{word} {word * 5}")
lines = st.lists(words | st.sampled_from(["", ".", "..", "x" * 1200, "From me"]), max_size=4)


def message(**said: Any) -> Message:
    return Message(
        **{
            "pk": uuid.UUID(int=7),
            "recipient": "anna@example.com",
            "subject": "Invoice AC-1 for October: €10.00",
            "body_text": "Dear Anna,\n",
            "body_html": "<p>Dear Anna,</p>\n",
            "locale": "en",
            "created_at": datetime(2026, 11, 1, 5, 12, tzinfo=UTC),
            **said,
        }
    )


def parsed(content: bytes) -> EmailMessage:
    read = message_from_bytes(content, policy=policy.default)
    assert isinstance(read, EmailMessage)
    return read


def body(of: EmailMessage, kind: str) -> str:
    part = of.get_body((kind,))
    assert part is not None
    return str(part.get_content()).replace("\r\n", "\n")


class TestAsBytes:
    @given(subject=words, text=lines, html=lines)
    def test_says_what_the_message_says(
        self, subject: str, text: list[str], html: list[str]
    ) -> None:
        told = message(
            subject=subject, body_text="\n".join([*text, ""]), body_html="\n".join([*html, ""])
        )

        content = mail.as_bytes(told).content

        read = parsed(content)
        assert str(read["Subject"]) == subject
        assert (body(read, "plain"), body(read, "html")) == (told.body_text, told.body_html)
        assert max(map(len, content.split(b"\r\n"))) <= mail.LINE_OCTETS
        assert b"\n" not in content.replace(b"\r\n", b"")

    def test_has_the_headers_that_django_s_would_have(self) -> None:
        told = message()

        ours, django_s = (
            parsed(mail.as_bytes(told).content),
            parsed(mail.composed(told).message().as_bytes()),
        )

        assert {name: str(ours[name]) for name in ours if name != "Content-Type"} == {
            name: str(django_s[name]) for name in django_s if name != "Content-Type"
        }
        assert ours.get_content_type() == django_s.get_content_type()

    def test_says_the_sender_s_name_and_hands_over_the_address(self, settings: Any) -> None:
        settings.DEFAULT_FROM_EMAIL = "Számlázás <billing@acme.example>"

        sent = mail.as_bytes(message())

        assert sent.sender == "billing@acme.example"
        assert str(parsed(sent.content)["From"]) == "Számlázás <billing@acme.example>"

    def test_an_address_beyond_ascii_is_written_as_mail_servers_read_it(self) -> None:
        sent = mail.as_bytes(message(recipient="anna@bücher.example"))

        assert sent.recipient == "anna@xn--bcher-kva.example"
        assert parsed(sent.content)["To"] == "anna@xn--bcher-kva.example"

    @pytest.mark.parametrize("build", [mail.as_bytes, mail.composed])
    @pytest.mark.parametrize(
        "said",
        [{"recipient": "not one"}, {"subject": "a\nb"}, {"locale": "en\r\nBcc: a@b.example"}],
    )
    def test_refuses_what_can_never_be_delivered(self, build: Any, said: dict[str, str]) -> None:
        with pytest.raises(mail.NotDeliverable):
            build(message(**said))
