"""Users, passwords and keys inside URLs, which must reach no log, no report and no artifact."""

from __future__ import annotations

import re

HIDDEN = "***"
# In http(s) a user alone may be a token. A database's user is none, and SQLAlchemy takes passwords
# with a slash in them.
_USER_OF_SERVER = re.compile(r"(?<=\bhttp://)[^/\s]*@|(?<=\bhttps://)[^/\s]*@", re.IGNORECASE)
_PASSWORD_OF_OTHERS = re.compile(
    r"\b(?!https?:)([a-z][a-z0-9+.-]*://[^/\s:@]*):\S*@", re.IGNORECASE
)
_SECRET_IN_QUERY = re.compile(
    r"(://\S*?[?&][\w.-]*(?:password|passwd|passphrase|pwd|secret|token|api_?key|access_?key"
    r"|signature)[\w.-]*=)(?!\*\*\*)[^&\s#'\"]+",
    re.IGNORECASE,
)


def without_credentials(text: str) -> str:
    """Return a text whose URLs hold no password, no key, and in http(s) no user either."""
    text = _USER_OF_SERVER.sub("", text)
    text = _PASSWORD_OF_OTHERS.sub(r"\1@", text)
    while (hidden := _SECRET_IN_QUERY.sub(rf"\1{HIDDEN}", text)) != text:
        text = hidden
    return text


def line_with_credentials(text: str) -> int | None:
    """Return the number of the first line, from 1, with a URL that holds credentials, or None."""
    for number, line in enumerate(text.splitlines(), start=1):
        if without_credentials(line) != line:
            return number
    return None
