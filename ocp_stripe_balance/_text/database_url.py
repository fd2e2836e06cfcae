"""
The URL of a database server, whose password is never shown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote

_SCHEMES = ("postgresql://", "postgres://")
_PARAMETER = re.compile(r"[?&]\w+=[^&]*")
_PASSWORD = re.compile(r"(//[^:@/?]*:)([^@/]*)(?=@)|([?&](?:ssl)?password=)([^&]*)")


@dataclass(frozen=True, slots=True)
class DatabaseURL:
    """
    A URL as libpq takes it. https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS
    """

    _text: str = field(repr=False)

    def reveal(self) -> str:
        """
        All of it, for who connects.
        """
        return self._text

    def mask(self, text: str) -> str:
        """
        Another text without the passwords of this URL, as they are written in it or as they are meant.
        """
        for _, before_host, _, in_query in _PASSWORD.findall(self._text):
            for secret in {before_host, unquote(before_host), in_query, unquote(in_query)} - {""}:
                text = text.replace(secret, "***")
        return text

    def __str__(self) -> str:
        """
        The URL without its passwords.
        """
        return _PASSWORD.sub(lambda found: f"{found[1] or found[3]}***", self._text)


def check_database_url(text: str) -> str:
    """
    The URL, where its parts can be told apart.

    Raises:
        ValueError: they cannot.
    """
    server, _, rest = _PARAMETER.sub("", text.split("://", 1)[1]).partition("/")
    if server.count("@") > 1 or "@" in rest or "#" in text or re.search(r"\s", text):
        msg = "in the URL of a server, '@', '#', '/' and spaces in a user or password are written %40, %23, %2F and %20"
        raise ValueError(msg)
    return text


def is_database_url(text: str) -> bool:
    """
    Whether a text names a server, and no file.
    """
    return text.lower().startswith(_SCHEMES)
