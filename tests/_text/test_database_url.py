"""
The URL of a database server is shown without its password, or refused.
"""

from __future__ import annotations

import pytest

from ocp_stripe_balance._text.database_url import DatabaseURL, check_database_url

SECRET = "planted"


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://me:{SECRET}@h/db",
        f"postgresql://me:{SECRET}?a@h1:1,h2:2/db?user=a@b",
        f"postgres://h/db?password={SECRET}@&sslpassword={SECRET}/",
    ],
)
def test_password_is_not_shown(text: str) -> None:
    url = DatabaseURL(check_database_url(text))
    assert SECRET not in f"{url} {url!r}"
    assert text == url.reveal()
    assert SECRET not in url.mask(text)


@pytest.mark.parametrize("password", ["a@b", "a#b", "a b", "a/b", "a?b/c", "a?b@c"])
def test_password_that_has_no_certain_end_is_refused(password: str) -> None:
    """It would be taken for a part of the place, and shown."""
    with pytest.raises(ValueError, match="are written %40, %23, %2F and %20"):
        check_database_url(f"postgresql://me:{password}@h/db")
