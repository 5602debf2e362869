"""
One SMTP conversation, with a word less to wait for where the server allows it.

Python's smtplib connects, encrypts, and knows the answers; it waits for each. RFC 2920 lets a client
say MAIL, RCPT and DATA together: two waits for a mail instead of four.
"""

import smtplib
import socket

from notifications.mail import Mail

# What tells of the mail, and leaves the connection as good as new.
SOUND_AFTER = (smtplib.SMTPResponseException, smtplib.SMTPRecipientsRefused)
OK, FORWARDED = 250, 251
GO_AHEAD = 354
FIRST_NO = 400
BYE = 421


class NotHandedOver(Exception):
    """The server was gone before the text of the mail was begun: it is certain that it has not got it."""


class SlowDown(NotHandedOver):
    """It has said 421: it wants us to leave, and to come back less often."""


def prepare(smtp: smtplib.SMTP) -> None:
    """Make a connection, open and let in, ready for many mails."""
    smtp.ehlo_or_helo_if_needed()
    assert smtp.sock is not None, "it is not open"
    # A text whose last packet waits for an answer to the others would take a server's time for it.
    smtp.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def send(smtp: smtplib.SMTP, mail: Mail) -> None:
    """
    Hand a mail to the server.

    After an error that is not SOUND_AFTER, what is open on the connection is unknown: hang up.

    :raises NotHandedOver: if the server had hung up.
    :raises smtplib.SMTPException: as smtplib's sendmail does.
    """
    mail_from, rcpt_to = f"MAIL FROM:<{mail.sender}>", f"RCPT TO:<{mail.recipient}>"
    try:
        sender, recipient, data = _ask(smtp, [mail_from, rcpt_to, "DATA"])
    except smtplib.SMTPServerDisconnected as error:
        raise NotHandedOver(str(error)) from error
    _check_envelope(smtp, mail, sender, recipient, data)
    smtp.send(_stuffed(mail.content) + b".\r\n")
    code, said = smtp.getreply()
    if code != OK:
        raise smtplib.SMTPDataError(code, said)


Answer = tuple[int, bytes]


def _ask(smtp: smtplib.SMTP, words: list[str]) -> list[Answer]:
    """The answers to some words; where one is refused, those after it may not have been said."""
    if smtp.has_extn("pipelining"):
        smtp.send("\r\n".join(words) + "\r\n")
        return [smtp.getreply() for _ in words]
    answers: list[Answer] = []
    for word in words:
        said_no = bool(answers) and answers[-1][0] >= FIRST_NO
        answers.append(answers[-1] if said_no else smtp.docmd(word))
    return answers


def _check_envelope(
    smtp: smtplib.SMTP, mail: Mail, sender: Answer, recipient: Answer, data: Answer
) -> None:
    for code, said in (sender, recipient, data):
        if code == BYE:
            raise SlowDown(said.decode(errors="replace"))
    refused: smtplib.SMTPException | None = None
    if sender[0] != OK:
        refused = smtplib.SMTPSenderRefused(*sender, mail.sender)
    elif recipient[0] not in {OK, FORWARDED}:
        refused = smtplib.SMTPRecipientsRefused({mail.recipient: recipient})
    elif data[0] != GO_AHEAD:
        refused = smtplib.SMTPDataError(*data)
    if refused is None:
        return
    if data[0] == GO_AHEAD:
        # It waits for a text that nobody is to get.
        smtp.close()
    else:
        smtp.rset()
    raise refused


def _stuffed(content: bytes) -> bytes:
    """A line that begins with a dot gets another one, so that it is not the end of the text."""
    return content.replace(b"\r\n.", b"\r\n..") if b"\r\n." in content else content
