"""WebDAVStorage: files on a WebDAV server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from os import fspath
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured

from ..options import (
    COMMON_DEFAULTS,
    COMMON_KINDS,
    SECRET,
    TEXT,
    TEXTS,
    CommonOptions,
    Kind,
)
from ..storage import NetworkStorage

try:
    from .endpoint import WebDAVEndpoint
    from .session import refuse_control_characters
except ModuleNotFoundError as error:
    if error.name and error.name.partition(".")[0] in {"webdav4", "httpx"}:
        raise ImproperlyConfigured(
            'WebDAVStorage needs webdav4: pip install "django-netstorage[webdav]"'
        ) from error
    raise

if TYPE_CHECKING:
    from typing_extensions import Unpack


class WebDAVOptions(CommonOptions, total=False):
    """The options of WebDAVStorage, beside the common ones.

    Attributes:
        url: URL of the folder that is the root, without credentials.
        username: Who logs in.
        password: A password, or a callable that returns it.
        auth: "basic" or "digest".
        token: A bearer token instead of a password, or a callable that returns it.
        verify: Whether TLS certificates are verified, or the path of a CA certificate to do it by.
        cert: Path of a client certificate with its key, or (certificate, key[, password]).
        headers: More headers for each request; taken as secret.
        proxy: URL of an HTTP proxy; taken as secret. Environment variables are not looked at.
    """

    url: str
    username: str | None
    password: str | Callable[[], str] | None
    auth: str
    token: str | Callable[[], str] | None
    verify: bool | str | PurePath
    cert: str | tuple[str, ...] | None
    headers: Mapping[str, str]
    proxy: str | None


class WebDAVStorage(NetworkStorage):
    """Keeps files on a WebDAV server.

    Takes the options of WebDAVOptions, by keyword; NETSTORAGE_WEBDAV may hold them for all. Without
    ``location`` the root is the URL itself.
    """

    settings_name = "NETSTORAGE_WEBDAV"
    required = "url"
    secrets = frozenset({"password", "token", "cert", "headers", "proxy"})
    defaults: ClassVar[Mapping[str, Any]] = {
        **COMMON_DEFAULTS,
        "url": None,
        "username": None,
        "password": None,
        "auth": "basic",
        "token": None,
        "verify": True,
        "cert": None,
        "headers": {},
        "proxy": None,
    }
    kinds: ClassVar[Mapping[str, Kind]] = {
        **COMMON_KINDS,
        "username": TEXT,
        "password": SECRET,
        "auth": TEXT,
        "token": SECRET,
        "verify": ((bool, str, PurePath), "True, False or the path of a CA certificate"),
        "cert": TEXTS,
        "headers": ((Mapping, type(None)), "a dictionary of strings"),
        "proxy": TEXT,
    }

    if TYPE_CHECKING:

        def __init__(self, **options: Unpack[WebDAVOptions]) -> None: ...

    @property
    def location(self) -> str:
        """The storage's root below the URL."""
        location = super().location.strip("/")
        if location.split("/", 1)[0] == "..":
            raise ImproperlyConfigured("the option 'location' leads out of the option 'url'.")
        return location

    def get_available_name(self, name: str, max_length: int | None = None) -> str:
        """Return ``name``, or an alternative that is free."""
        # Not to ask for what will be refused: sabre/dav says that all below "a\n" is taken.
        refuse_control_characters(self._clean(name))
        return super().get_available_name(name, max_length=max_length)

    def _endpoint(self) -> WebDAVEndpoint:
        options = {f.name: self.options[f.name] for f in fields(WebDAVEndpoint) if f.init}
        try:
            url = urlsplit(options["url"])
            valid = url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0
        except (ValueError, AttributeError, TypeError):
            valid = False
        if not valid:
            raise ImproperlyConfigured(
                "the option 'url' must be like 'https://nas.example.com/dav/uploads/'."
            )
        if url.username is not None or url.password is not None:
            raise ImproperlyConfigured(
                "the option 'url' must not hold credentials: use username and password."
            )
        if url.query or url.fragment:
            raise ImproperlyConfigured("the option 'url' must not have a query or fragment.")
        if options["auth"] not in {"basic", "digest"}:
            raise ImproperlyConfigured(
                f"the option 'auth' must be 'basic' or 'digest', not {options['auth']!r}."
            )
        if not isinstance(options["verify"], bool):
            options["verify"] = fspath(options["verify"])
        if isinstance(options["cert"], list):
            options["cert"] = tuple(options["cert"])
        options["headers"] = tuple(sorted(dict(options["headers"] or {}).items()))
        if not all(isinstance(text, str) for pair in options["headers"] for text in pair):
            raise ImproperlyConfigured("the option 'headers' must be a dictionary of strings.")
        if not all(isinstance(part, (str, PurePath)) for part in options["cert"] or ()):
            raise ImproperlyConfigured("the option 'cert' must be a path or a tuple of paths.")
        if options["proxy"] and not urlsplit(options["proxy"]).hostname:
            raise ImproperlyConfigured("the option 'proxy' must be like 'http://proxy:3128'.")
        return WebDAVEndpoint(**options)
