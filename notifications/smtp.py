"""
One SMTP conversation, pipelined where the server allows it.

Python's smtplib connects, encrypts and reads answers, but waits for each. RFC 2920 lets a client send
MAIL, RCPT and DATA together: two waits for a mail instead of four.
"""

import smtplib
import socket

from notifications.mail import Mail

# Errors about the mail itself: after them the connection can be used again.
SOUND_AFTER = (smtplib.SMTPResponseException, smtplib.SMTPRecipientsRefused)
OK, FORWARDED = 250, 251
GO_AHEAD = 354
FIRST_NO = 400
BYE = 421


class NotHandedOver(Exception):
    """The server hung up before the text of the mail was begun: it certainly does not have it."""


class SlowDown(NotHandedOver):
    """The server said 421: disconnect, and come back less often."""


def prepare(smtp: smtplib.SMTP) -> None:
    """Prepare an open, authenticated connection for many mails."""
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
    """Send commands and return the answers; after a refused one, the rest may not have been sent."""
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
        # The server waits for a text, and no recipient is left.
        smtp.close()
    else:
        smtp.rset()
    raise refused


def _stuffed(content: bytes) -> bytes:
    """Double the dot at the start of a line, so that it does not end the text."""
    return content.replace(b"\r\n.", b"\r\n..") if b"\r\n." in content else content
