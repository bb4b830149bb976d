"""What a name stands for: a path on the server, and a link to it."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from pathlib import PurePath
from urllib.parse import urljoin

from django.core.exceptions import SuspiciousFileOperation
from django.utils.encoding import filepath_to_uri

from . import links
from .options import ConfiguredStorage


class NamedStorage(ConfiguredStorage):
    """A storage that knows where its names lead to, without asking the server."""

    def _clean(self, name: str | PurePath) -> str:
        """Return ``name`` without detours, or refuse it; the root is the empty string."""
        text = as_text(name)
        clean = posixpath.normpath(text) if text else ""
        # As with FileSystemStorage, a whole path below an absolute location will do.
        if clean.startswith("/") and self.location.startswith("/"):
            clean = posixpath.relpath(clean, self.location)
        # A server on Windows may take a backslash for a slash.
        as_windows = posixpath.normpath(clean.replace("\\", "/")) if "\\" in clean else clean
        if "\0" in text or any(
            reading == ".." or reading.startswith(("/", "../")) for reading in (clean, as_windows)
        ):
            raise SuspiciousFileOperation(f"The name {text!r} leads out of the storage's location.")
        try:
            # Bytes that are no text come and go as surrogate escapes; other surrogates are nothing.
            clean.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise SuspiciousFileOperation(f"The name {text!r} cannot be encoded.") from None
        return "" if clean == "." else clean

    def _path(self, name: str | PurePath) -> str:
        """Return the path on the server that stands for ``name``."""
        clean = self._clean(name)
        return posixpath.join(self.location, clean) if clean else self.location

    @property
    def signs_urls(self) -> bool:
        """Whether ``url()`` gives signed links."""
        return bool(self.options["querystring_auth"])

    def url(self, name: str | None) -> str:
        """Return ``base_url`` with the quoted name; signed with the option ``querystring_auth``.

        Raises:
            ValueError: There is no ``base_url``.
        """
        if not self.signs_urls:
            return self._join_url(filepath_to_uri(name))
        url = self._url_to_sign(name or "")
        return links.sign(url, self.options["querystring_expire"], self._bound_to())

    def absolute_url(self, name: str | None) -> str:
        """Return ``url()`` with scheme and host, for e-mails and other systems.

        They are those of ``base_url``, or https and the domain of the current site of
        ``django.contrib.sites``.

        Raises:
            ValueError: There is no ``base_url``.
            ImproperlyConfigured: Neither tells the host.
        """
        return links.absolute(self.url(name))

    def verify_url(self, name: str, query: Mapping[str, str]) -> None:
        """Check that a request for ``name`` came by a link of ``url()``.

        Args:
            name: The name in the request's path.
            query: The request's query, ``request.GET``.

        Raises:
            BadSignature: It did not.
            SignatureExpired: It did, but the link is too old.
        """
        links.verify(self._url_to_sign(name), query, self._bound_to())

    def _bound_to(self) -> str | None:
        bind: Callable[[], str] | None = self.options["querystring_bind"]
        return None if bind is None else str(bind())

    def _url_to_sign(self, name: str) -> str:
        """Return a URL that no two files share, whatever detours their names take."""
        return self._join_url(quoted(self._clean(name)))

    def _join_url(self, url: str | None) -> str:
        base_url = self.base_url
        if base_url is None:
            raise ValueError(
                "This file is not accessible via a URL: set the storage's option 'base_url' (or "
                "MEDIA_URL) to where netstorage.urls, a web server or a view of yours serves its "
                "files."
            )
        if url is not None:
            url = url.lstrip("/")
        return urljoin(base_url, url)


def quoted(path: str) -> str:
    """Quote a path for a URL; unlike ``filepath_to_uri()``, take no backslash for a slash."""
    return "%5C".join(filepath_to_uri(part) for part in path.split("\\"))


def as_text(name: str | PurePath) -> str:
    """Return a name as text; a Windows path with the slashes that servers want."""
    return name.as_posix() if isinstance(name, PurePath) else str(name)
