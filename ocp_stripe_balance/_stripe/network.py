"""
What stands between this process and Stripe: a proxy, and the certificates that are trusted.

Settings say so. The environment does only where ``trust_env`` is on, because who can set a variable could otherwise
read every request.
"""

from __future__ import annotations

import os
import ssl
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ocp_stripe_balance._stripe.wire import UnusableError
from ocp_stripe_balance.settings import is_loopback

if TYPE_CHECKING:
    from pydantic import SecretStr

    from ocp_stripe_balance.settings import Settings

_PROXIES = ("HTTPS_PROXY", "https_proxy")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """
    How connections to Stripe are made.
    """

    proxy: SecretStr | None = None
    """URL of an HTTP proxy, which may have a password in it."""
    ca_file: str | None = None
    """PEM file of the certificates to trust, instead of certifi's."""
    trusts_env: bool = False
    """Whether HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE and SSL_CERT_DIR are used."""

    @classmethod
    def of(cls, settings: Settings) -> Network:
        """
        As the settings say.
        """
        return cls(proxy=settings.proxy, ca_file=settings.ca_file, trusts_env=settings.trust_env)

    def proxy_for(self, url: str) -> str | None:
        """
        The proxy that a request for *url* goes through; none to loopback.

        Raises:
            UnusableError: the environment names one that is no HTTP proxy.
        """
        parts = urlsplit(url)
        if is_loopback(parts.hostname or ""):
            return None
        if self.proxy is not None:
            return self.proxy.get_secret_value()
        if not self.trusts_env or urllib.request.proxy_bypass(parts.netloc):
            return None
        proxy = urllib.request.getproxies().get(parts.scheme)
        if proxy is not None and "://" not in proxy:  # as curl takes it
            proxy = f"http://{proxy}"
        if proxy is not None and not proxy.lower().startswith(("http://", "https://")):
            raise UnusableError(f"{parts.scheme.upper()}_PROXY of the environment names no http:// proxy")
        return proxy

    def ssl_context(self, usual_ca_file: str) -> ssl.SSLContext:
        """
        What TLS connections are checked against.

        Raises:
            UnusableError: a file or folder of certificates cannot be read, or has none.
        """
        file, folder = (os.environ.get(name) or None for name in _CERTIFICATES) if self.trusts_env else (None, None)
        name = "SSL_CERT_DIR" if file is None else "SSL_CERT_FILE"
        if self.ca_file is not None:
            name, file, folder = "OCP_STRIPE_CA_FILE", self.ca_file, None
        elif file is None and folder is None:
            name, file = "the package certifi", usual_ca_file
        try:
            if file is None:
                next(Path(str(folder)).iterdir(), None)  # OpenSSL takes what is no folder for an empty one
            return ssl.create_default_context(cafile=file, capath=folder)
        except (OSError, ValueError) as error:  # among them ssl.SSLError
            is_text = isinstance(error, ssl.SSLError | ValueError)
            why = "it has no certificates in PEM form" if is_text else getattr(error, "strerror", error)
            message = f"{name} names {file or folder}, which cannot be used for certificates: {why}"
            raise UnusableError(message) from None

    def ignored(self) -> list[str]:
        """
        The variables that are set and not used.
        """
        if self.trusts_env:
            return []
        proxies = [name for name in _PROXIES if os.environ.get(name)] if self.proxy is None else []
        return proxies[:1] + [name for name in _CERTIFICATES if os.environ.get(name) and self.ca_file is None]


def advice(ignored: list[str]) -> str:
    """
    What is said where variables are set and not used; empty where there are none.
    """
    if not ignored:
        return ""
    verb, them = ("is", "it") if len(ignored) == 1 else ("are", "them")
    return f"{', '.join(ignored)} {verb} set and not used; OCP_STRIPE_TRUST_ENV=true uses {them}."
