"""Without a mail server each mail is one file that any mail program opens."""

import email
from email import policy

import pytest
from django.core.mail import EmailMultiAlternatives, get_connection


@pytest.fixture
def folder(settings, tmp_path):
    settings.EMAIL_BACKEND = "config.mail_files.EmlFileBackend"
    settings.EMAIL_FILE_PATH = str(tmp_path / "not yet there" / "mail")
    return tmp_path / "not yet there" / "mail"


def mail(message_id: str = "<1@example.com>", **facts: str) -> EmailMultiAlternatives:
    facts = {"subject": "Számla: 12,00 €", "body": "Kedves Ügyfelünk!\nFrom here on", **facts}
    message = EmailMultiAlternatives(
        to=["ann@example.com"], headers={"Message-ID": message_id}, **facts
    )
    message.attach_alternative("<p>Kedves Ügyfelünk!</p>", "text/html")
    return message


class TestMailFiles:
    def test_hold_the_mail_as_it_would_be_sent(self, folder):
        assert get_connection().send_messages([mail()]) == 1

        [path] = folder.iterdir()
        assert path.name == "1@example.com.eml"
        raw = path.read_bytes()
        assert raw.count(b"\n") == raw.count(b"\r\n")
        read = email.message_from_bytes(raw, policy=policy.default)
        assert read["Subject"] == "Számla: 12,00 €"
        plain, html = (part.get_content() for part in read.iter_parts())
        assert plain.replace("\r\n", "\n").strip() == "Kedves Ügyfelünk!\nFrom here on"
        assert "Ügyfelünk" in html

    def test_of_a_mail_sent_again_are_still_one(self, folder):
        get_connection().send_messages([mail(body="first"), mail(body="second"), mail("<2@b.c>")])

        assert sorted(path.name for path in folder.iterdir()) == ["1@example.com.eml", "2@b.c.eml"]
        assert b"second" in (folder / "1@example.com.eml").read_bytes()

    def test_stay_in_their_folder_whatever_the_message_id_says(self, folder):
        get_connection().send_messages([mail("<../../etc/passwd@x>")])

        [path] = folder.iterdir()
        assert path.name == "....etcpasswd@x.eml"

    def test_are_missed_aloud(self, folder):
        folder.parent.write_text("a file where the folder should be")

        with pytest.raises(OSError, match="not yet there"):
            get_connection().send_messages([mail()])

    def test_or_silently_where_that_was_asked_for(self, folder):
        folder.parent.write_text("a file where the folder should be")

        assert get_connection(fail_silently=True).send_messages([mail()]) == 0
