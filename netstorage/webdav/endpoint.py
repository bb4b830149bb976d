"""Opening a session: URL, TLS, credentials, and a first question."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import quote

import httpx
from webdav4.client import Client
from webdav4.http import Client as HTTPClient

from ..exceptions import AuthenticationError, ConnectError, NetStorageError
from ..hidden import hidden, reveal
from .habits import Notebook
from .session import WebDAVSession

Secret = str | Callable[[], str] | None

KEEPALIVE = 4.0
"""Seconds after which an idle connection is not used again: Apache closes it after 5."""


@dataclass(frozen=True)
class WebDAVEndpoint:
    """Where and as whom to connect; what can be given are the options of WebDAVStorage.

    Attributes:
        notebook: What the sessions learn of the server.
    """

    url: str
    username: str | None = None
    password: Secret = field(default=None, repr=False)
    auth: str = "basic"
    token: Secret = field(default=None, repr=False)
    verify: bool | str = True
    cert: str | tuple[str, ...] | None = field(default=None, repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    proxy: str | None = field(default=None, repr=False)
    timeout: float = 30.0
    connect_timeout: float = 10.0
    notebook: Notebook = field(default_factory=Notebook, init=False, repr=False, compare=False)

    def __str__(self) -> str:
        """Name the server."""
        return self.url

    def connect(self) -> WebDAVSession:
        """Open a session.

        Raises:
            AuthenticationError: The server refused the credentials.
            ConnectError: Anything else went wrong on the way, or the URL is no WebDAV root.
        """
        try:
            url = httpx.URL(self.url if self.url.endswith("/") else self.url + "/")
        except httpx.InvalidURL as error:
            raise ConnectError(f"{self} is no URL: {error}. Check the option url.") from error
        http = self._http_client()
        # webdav4 joins onto the decoded path of its base: quoted once more, that is the quoted one.
        base = url.copy_with(raw_path=quote(url.raw_path.decode("ascii"), safe="/").encode())
        session = WebDAVSession(
            Client(base, http_client=http, retry=False),
            url,
            str(self),
            self.timeout,
            self.notebook,
        )
        try:
            self._start(session)
        except BaseException:
            session.close()
            raise
        return session

    def _http_client(self) -> HTTPClient:
        timeout = httpx.Timeout(self.timeout, connect=self.connect_timeout)
        context = _ssl_context(self.verify, hidden(self.cert))
        try:
            return HTTPClient(
                auth=self._auth(),
                headers={
                    _sendable("headers", name): _sendable("headers", value)
                    for name, value in hidden(self.headers)
                },
                verify=context,
                proxy=hidden(self.proxy),
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
        token = reveal(self.token)
        if token is not None:
            return _Bearer(_sendable("token", token))
        if self.username is None:
            return None
        password = reveal(self.password)
        kind = _Digest if self.auth == "digest" else httpx.BasicAuth
        return kind(self.username, password or "")

    def _start(self, session: WebDAVSession) -> None:
        """Ask the first question, and tell what is wrong with its answer."""
        try:
            session.start()
        except ConnectError:
            raise
        except FileNotFoundError as error:
            raise ConnectError(
                f"{self} does not exist on the server (404). Make that folder, or correct the "
                "option url."
            ) from error
        except PermissionError as error:
            raise AuthenticationError(
                f"{self} may not be used with these credentials (403). Check the options url, "
                "username and password."
            ) from error
        except NotADirectoryError as error:
            raise ConnectError(f"{self} is a file. Set the option url to a folder.") from error
        except TimeoutError as error:
            raise ConnectError(error.strerror) from error
        except ConnectionError as error:
            raise self._unreachable(error) from error
        except UnicodeError as error:
            raise ConnectError(
                f"the name in {self} cannot be resolved: {error}. Check the option url."
            ) from error
        except (NetStorageError, OSError) as error:
            why = getattr(error, "strerror", None) or error
            raise ConnectError(
                f"{self} does not answer as a WebDAV server: {why}. Check the option url."
            ) from error

    def _unreachable(self, error: ConnectionError) -> ConnectError:
        cause = error.__cause__
        chain: BaseException | None = cause
        while chain is not None:
            if isinstance(chain, ssl.SSLError):
                return ConnectError(f"{self}: TLS failed: {_tls_failure(chain)}")
            if isinstance(chain, ConnectionRefusedError):
                return ConnectError(
                    f"{self} refuses connections. Is the server running, is the option url right?"
                )
            chain = chain.__cause__ or chain.__context__
        why = str(cause or error)[:200].rstrip(".")
        return ConnectError(f"{self} cannot be reached: {why}. Check the option url.")


def _tls_failure(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        said = error.verify_message.rstrip(".")
        if "mismatch" in said:
            return f"{said}. The option url must name the server as its certificate does."
        return (
            f"{said}. If the server's certificate is its own or your site's, set the option verify "
            "to the path of the CA certificate."
        )
    said = error.reason or str(error)
    if "CERTIFICATE_REQUIRED" in said or "HANDSHAKE_FAILURE" in said:
        return f"{said}. The server may want a client certificate: see the option cert."
    return f"{said}. Does the server speak HTTPS there? Check the option url."


def _sendable(option: str, text: str) -> str:
    """Return what can stand in a header; the HTTP client's own error would show it."""
    if not re.fullmatch(r"[!-~]*([ \t]+[!-~]+)*", text):
        raise ConnectError(
            f"the option {option} holds a character that no HTTP header can: a line's end, perhaps"
        )
    return text


class _Bearer(httpx.Auth):
    """Sends a bearer token (RFC 6750)."""

    def __init__(self, token: str) -> None:
        self._header = f"Bearer {token}"

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:  # type: ignore[override]
        request.headers["Authorization"] = self._header
        yield request


class _Digest(httpx.DigestAuth):
    """Digest authentication (RFC 7616), to which no challenge is a bug of ours."""

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Answer a challenge, or say that nobody can."""
        try:
            yield from super().auth_flow(request)
        except (LookupError, ValueError, NotImplementedError, httpx.ProtocolError):
            pass
        else:
            return
        # Out here, for the frames of that error hold the password.
        raise httpx.ProtocolError("it asks for a digest that nobody can make")


@lru_cache(maxsize=16)
def _ssl_context(verify: bool | str, cert: str | tuple[str, ...] | None) -> ssl.SSLContext:
    """Return the context that all sessions with these options share: making one takes long."""
    try:
        context = ssl.create_default_context(cafile=verify if isinstance(verify, str) else None)
    except OSError as error:
        raise ConnectError(_unusable("verify", str(verify), error)) from error
    if verify is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if cert is not None:
        files = (cert,) if isinstance(cert, str) else cert
        try:
            context.load_cert_chain(*files)
        except OSError as error:
            raise ConnectError(_unusable("cert", " and ".join(files[:2]), error)) from error
    return context


def _unusable(option: str, names: str, error: OSError) -> str:
    why = getattr(error, "reason", None) or error.strerror or error
    return f"the option {option} names {names}, which cannot be used: {why}"
