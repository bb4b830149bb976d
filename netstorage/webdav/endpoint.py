"""Opening a session: URL, TLS, credentials, and a first question."""

from __future__ import annotations

import errno
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import quote

import httpx
from webdav4.client import Client
from webdav4.http import Client as HTTPClient

from ..exceptions import AuthenticationError, ConnectError, NetStorageError
from .session import WebDAVSession

Secret = str | Callable[[], str] | None

KEEPALIVE = 4.0
"""Seconds after which an idle connection is not used again: Apache closes it after 5."""


@dataclass(frozen=True)
class WebDAVEndpoint:
    """Where and as whom to connect; the attributes are the options of WebDAVStorage."""

    url: str
    username: str | None = None
    password: Secret = field(default=None, repr=False)
    auth: str = "basic"
    token: Secret = field(default=None, repr=False)
    verify: bool | str = True
    cert: str | tuple[str, ...] | None = None
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    proxy: str | None = field(default=None, repr=False)
    timeout: float = 30.0
    connect_timeout: float = 10.0

    def __str__(self) -> str:
        """Name the server."""
        return self.url

    def connect(self) -> WebDAVSession:
        """Open a session.

        Raises:
            AuthenticationError: The server refused the credentials.
            ConnectError: Anything else went wrong on the way, or the URL is no WebDAV root.
        """
        url = httpx.URL(self.url if self.url.endswith("/") else self.url + "/")
        http = self._http_client()
        # webdav4 joins onto the decoded path of its base: quoted once more, that is the quoted one.
        base = url.copy_with(raw_path=quote(url.raw_path.decode("ascii"), safe="/").encode())
        session = WebDAVSession(
            Client(base, http_client=http, retry=False), url, str(self), self.timeout
        )
        try:
            self._start(session)
        except BaseException:
            session.close()
            raise
        return session

    def _http_client(self) -> HTTPClient:
        timeout = httpx.Timeout(self.timeout, connect=self.connect_timeout)
        try:
            return HTTPClient(
                auth=self._auth(),
                headers=dict(self.headers),
                verify=_ssl_context(self.verify, self.cert),
                proxy=self.proxy,
                timeout=timeout,
                limits=httpx.Limits(
                    max_connections=1, max_keepalive_connections=1, keepalive_expiry=KEEPALIVE
                ),
                follow_redirects=False,
                # Nothing but the options decides where secrets and files go.
                trust_env=False,
            )
        except (OSError, ValueError) as error:
            raise ConnectError(f"{self} cannot be asked: {error}") from error

    def _auth(self) -> httpx.Auth | None:
        token = self.token() if callable(self.token) else self.token
        if token is not None:
            return _Bearer(token)
        if self.username is None:
            return None
        password = self.password() if callable(self.password) else self.password
        kind = httpx.DigestAuth if self.auth == "digest" else httpx.BasicAuth
        return kind(self.username, password or "")

    def _start(self, session: WebDAVSession) -> None:
        """Ask the first question, and tell what is wrong with its answer."""
        try:
            session.start()
        except ConnectError:
            raise
        except FileNotFoundError as error:
            raise ConnectError(
                f"{self} does not exist on the server (404): make that folder, or correct the "
                "option url"
            ) from error
        except PermissionError as error:
            raise AuthenticationError(
                f"{self} may not be used with these credentials (403)"
            ) from error
        except TimeoutError as error:
            cause = error.__cause__
            if isinstance(cause, httpx.ConnectTimeout):
                raise ConnectError(
                    f"{self} did not accept a connection within {self.connect_timeout:g} s "
                    "(connect_timeout)"
                ) from error
            raise ConnectError(str(error)) from error
        except ConnectionError as error:
            raise self._unreachable(error) from error
        except (NetStorageError, OSError) as error:
            raise ConnectError(self._no_webdav(error)) from error

    def _no_webdav(self, error: BaseException) -> str:
        if isinstance(error, OSError) and error.errno not in {None, errno.EIO}:
            return f"{self} does not answer as a WebDAV server: {error.strerror}"
        return f"{self} does not answer as a WebDAV server: {error}"

    def _unreachable(self, error: ConnectionError) -> ConnectError:
        cause = error.__cause__
        chain: BaseException | None = cause
        while chain is not None:
            if isinstance(chain, ssl.SSLError):
                return ConnectError(
                    f"{self}: TLS failed: {getattr(chain, 'verify_message', '') or chain.reason}. "
                    "If the server's certificate is its own or your site's, set the option verify "
                    "to the path of the CA certificate"
                )
            if isinstance(chain, ConnectionRefusedError):
                return ConnectError(
                    f"{self} refuses connections: is the server running, is the option url right?"
                )
            chain = chain.__cause__ or chain.__context__
        return ConnectError(f"{self} cannot be reached: {cause or error}")


class _Bearer(httpx.Auth):
    """Sends a bearer token (RFC 6750)."""

    def __init__(self, token: str) -> None:
        self._header = f"Bearer {token}"

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:  # type: ignore[override]
        request.headers["Authorization"] = self._header
        yield request


@lru_cache(maxsize=16)
def _ssl_context(verify: bool | str, cert: str | tuple[str, ...] | None) -> ssl.SSLContext:
    """Return the context that all sessions with these options share: making one takes long."""
    context = ssl.create_default_context(cafile=verify if isinstance(verify, str) else None)
    if verify is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if cert is not None:
        context.load_cert_chain(*((cert,) if isinstance(cert, str) else cert))
    return context
