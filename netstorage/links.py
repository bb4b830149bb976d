"""Links that a site can know again as its own: signed, and good for a while.

A link is ``URL?expires=TIME&signature=SIGNATURE``. TIME is in whole seconds since the epoch. The
signature is the URL-safe base64, without padding, of

    HMAC-SHA256(key = SHA-256("netstorage.links" "signer" SECRET_KEY), "URL?expires=TIME")

where URL is as ``Storage.url()`` would give it without a signature. If the link is bound to
somebody, "&bound=" and that text follow what is signed. So other programs can make links, or see
whether one is good.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from urllib.parse import urlencode, urljoin, urlsplit

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.core.signing import BadSignature, SignatureExpired, Signer
from django.utils.crypto import constant_time_compare

STEPS = 8
"""For one part in so many of its lifetime a link stays the same: browsers keep what they have."""


def sign(url: str, lifetime: float, bound_to: str | None = None) -> str:
    """Return ``url`` with a signature.

    Args:
        url: A URL without a query.
        lifetime: Seconds for which the link is good at the least; an eighth more at the most, or
            a second.
        bound_to: For whom alone it is good: any text that names them.
    """
    step = max(int(lifetime / STEPS), 1)
    expires = int((time.time() + lifetime) / step + 1) * step
    signature = _signer().signature(_claim(url, str(expires), bound_to))
    return f"{url}?{urlencode({'expires': expires, 'signature': signature})}"


def verify(url: str, query: Mapping[str, str], bound_to: str | None = None) -> None:
    """Check the signature of a link to ``url``.

    A key of SECRET_KEY_FALLBACKS will do, too.

    Args:
        url: The URL that the link should lead to.
        query: What the link's query holds, in the end ``request.GET``.
        bound_to: Who follows the link.

    Raises:
        BadSignature: It was made for something or somebody else, or with another key.
        SignatureExpired: It was good once.
    """
    expires, signature = query.get("expires", ""), query.get("signature", "")
    if not (re.fullmatch("[0-9]{1,12}", expires) and re.fullmatch("[A-Za-z0-9_-]{43}", signature)):
        raise BadSignature("The link has no signature.")
    signer = _signer()
    claim = _claim(url, expires, bound_to)
    # Not Signer.unsign(): a colon in the signature would move a part of what is signed.
    if not any(
        constant_time_compare(signature, signer.signature(claim, key))
        for key in (signer.key, *signer.fallback_keys)
    ):
        raise BadSignature("The signature is not that of this link.")
    if time.time() >= int(expires):
        raise SignatureExpired("The link has expired.")


def absolute(url: str) -> str:
    """Return ``url`` with scheme and host; those of the current site, where it has none.

    Raises:
        ImproperlyConfigured: It has none, and ``django.contrib.sites`` is not installed.
    """
    if urlsplit(url).netloc:
        # "//host/" has no scheme.
        return urljoin("https:", url)
    if not apps.is_installed("django.contrib.sites"):
        raise ImproperlyConfigured(
            "A link for use outside of the site needs a scheme and a host: give the storage's "
            "option 'base_url' both, as in 'https://www.example.com/media/', or install "
            "django.contrib.sites."
        )
    from django.contrib.sites.models import Site

    return urljoin(f"https://{Site.objects.get_current().domain}/", url)


def _signer() -> Signer:
    return Signer(salt="netstorage.links")


def _claim(url: str, expires: str, bound_to: str | None) -> str:
    claim = f"{url}?expires={expires}"
    return claim if bound_to is None else f"{claim}&bound={bound_to}"
