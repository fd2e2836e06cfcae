"""
What people write into settings by mistake, and what they meant.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_QUOTES = "\"'`\u201c\u201d\u2018\u2019\u00ab\u00bb"
# What a shell, cmd.exe or a template would have replaced, or what a manual asks to replace.
_UNEXPANDED = re.compile(r"\$[A-Za-z_{(]|%[A-Za-z_]\w*%|\{\{|\}\}|\{%|<[^<>]*>|#\{|@@\w+@@")
_WITH_BRACES = re.compile(r"\$[{(]|\{\{|\}\}")
_CREDENTIALS = re.compile(r"//[^/]*@")  # a password may have any of these characters

_KEY = re.compile(r"[sr]k_(test|live)_[A-Za-z0-9_.-]*[A-Za-z0-9]")
_KINDS = (
    (r"$", "empty"),
    (r"[\"'`\u201c\u2018]|.*[\"'`\u201d\u2019]$", "a value in quotes, which count as part of it"),
    (r"(?i)(export\s+|set\s+)?\w*(key|token|secret)\w*\s*[=:]", "a whole assignment, not its value"),
    (_UNEXPANDED.pattern, "a placeholder that nobody replaced"),
    (r"(?i)(bearer|basic)\b", "a whole Authorization header, not the key in it"),
    (r"[sr]k_(test|live)_.*(\*|\.\.|\u2026|\u2022)", "a key that is masked or cut off; copy the whole of it"),
    (r"[sr]k_(test|live)_\W*$", "the beginning of a key alone"),
    (r"[sr]k_(test|live)_", "a key with something else in or around it"),
    (r"pk_", "a publishable key (pk_…), which cannot change balances"),
    (r"[sr]k_org_", "an organization's key (sk_org_…), which stands for no single account"),
    (r"ek_", "an ephemeral key (ek_…), which an app gets for one customer"),
    (r"whsec_", "the signing secret of a webhook (whsec_…)"),
    (r"acct_", "an account's ID (acct_…), which STRIPE_ACCOUNT takes"),
    (r"ca_", "a Connect client ID (ca_…)"),
    (r"[^\s@/]+@[^\s@/]+\.[^\s@/]+$", "an email address"),
    (r"\w+:", "an address or a reference to a secret, not the secret"),
    (r"[~./\\]", "a path; write what is in the file"),
    (r"[\[{]", "JSON"),
    (r"(?!sk_|rk_)[a-z]{2,12}_[A-Za-z0-9_]+$", "an ID or a secret of another kind"),
    (r"", "no API key of Stripe's"),
)

_SERVICE = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$")
_LINK = re.compile(r"_(NAME|ENV_\w+)$")
_is_address = re.compile(r"(tcp|udp|sctp)://").match


def as_meant(text: str) -> str:
    """
    The text of a setting without outer space.

    Raises:
        ValueError: it stands in quotes, or has a placeholder that nobody replaced; the message has no part of it.
    """
    text = text.strip()
    if text and (text[0] in _QUOTES or text[-1] in _QUOTES):
        message = "it begins or ends with a quote, which counts as part of the value here; write it without quotes"
        raise ValueError(message)
    if _UNEXPANDED.search(_CREDENTIALS.sub("//", text)) or _WITH_BRACES.search(text):
        message = "it has a placeholder (such as ${NAME}, %NAME% or <your key>) that nobody replaced; write the value"
        raise ValueError(message)
    return text


def full_path(text: str, example: str) -> str:
    """
    The path, ``~`` replaced by the home folder.

    Raises:
        ValueError: it begins at the working directory, which is another one in each shell and service.
    """
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        message = "there is no such home folder"
        raise ValueError(message) from None
    if not path.is_absolute():
        message = f"it is a full path, such as {example}; {text!r} would be another file in each folder"
        raise ValueError(message)
    return str(path)


def what_is_no_key(text: str) -> str | None:
    """
    What a text is that is no secret or restricted API key, in words that have no part of it; None of such a key.
    """
    if _KEY.fullmatch(text):
        return None
    return next(words for pattern, words in _KINDS if re.match(pattern, text.strip(), re.DOTALL))


def is_service_variable(name: str, text: str, others: Mapping[str, str]) -> bool:
    """
    Whether a variable describes a service, as Kubernetes and Docker put them into each container.

    Args:
        name: of the variable, in upper case.
        text: its value.
        others: all variables.
    """
    if link := _LINK.search(name):
        return _is_address(others.get(f"{name[: link.start()]}_PORT", "")) is not None
    # Of this one, only the value says that no person wrote it.
    return _SERVICE.search(name) is not None or (name.endswith("_PORT") and _is_address(text) is not None)
