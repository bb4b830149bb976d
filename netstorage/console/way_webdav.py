"""The steps of ``check`` that WebDAV has of its own."""

from __future__ import annotations

import re
import socket
import ssl
import time
from contextlib import ExitStack, suppress
from itertools import islice
from typing import Any, cast
from urllib.parse import urlsplit

import httpx

from ..checks import _exposes_credentials
from ..exceptions import AuthenticationError, ConnectError
from ..hidden import hidden
from ..session import Session, Stat
from ..storage import NetworkStorage
from ..webdav.endpoint import WebDAVEndpoint, _ssl_context, _tls_failure
from ..webdav.session import WebDAVSession
from .findings import SESSION, Note, Step
from .way import Way, addresses

FEW_DAYS = 14
"""Days before its end from which a certificate is worth a note."""
IGNORE_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME, for which Python has no name."""

# Free space (RFC 4331).
QUOTA = b"""<?xml version="1.0" encoding="utf-8"?>
<propfind xmlns="DAV:"><prop><quota-available-bytes/></prop></propfind>"""


class WebDAVWay(Way):
    """Looks at the line below HTTP by itself, and then goes the way of ``WebDAVEndpoint``."""

    home = "the folder of the option url"

    def __init__(self, storage: NetworkStorage, stack: ExitStack) -> None:
        super().__init__(storage, stack)
        self._end = cast("WebDAVEndpoint", self.endpoint)
        url = urlsplit(self._end.url)
        self._host = url.hostname or ""
        self._port = url.port or (443 if url.scheme == "https" else 80)
        # What the login met that is no matter of a login.
        self._unusable: ConnectError | None = None

    @property
    def _dav(self) -> WebDAVSession:
        return cast("WebDAVSession", self.session)

    def connecting(self) -> list[Step]:
        """Return the steps up to a session."""
        line = [
            Step("name", lambda: addresses(self._host, self._port, "url")),
            Step("tcp", self._tcp, ("name",), "Check the option url, and firewalls."),
            Step("tls", self._tls, ("tcp",), "Check the options url, verify and cert."),
        ]
        if self._end.proxy is not None:
            line = [Step("proxy", _proxy)]
        return [
            *line,
            Step("login", self._login, ("tls",), "Check the options username, password, auth."),
            Step(SESSION, self._session, ("login",), "Check the option url."),
        ]

    def _tcp(self) -> str:
        with self._dial() as sock:
            host, port = sock.getpeername()[:2]
        return f"connected to {f'[{host}]' if ':' in host else host}:{port}"

    def _dial(self) -> socket.socket:
        try:
            return socket.create_connection((self._host, self._port), self._end.connect_timeout)
        except ConnectionRefusedError as error:
            raise ConnectError(
                f"{self._host}:{self._port} refuses connections. Is the server running, is the "
                "option url right?"
            ) from error
        except TimeoutError as error:
            raise ConnectError(
                f"{self._host}:{self._port} did not accept a connection within "
                f"{self._end.connect_timeout:g} s (connect_timeout)"
            ) from error

    # TLS

    def _tls(self) -> str | Note:
        if urlsplit(self._end.url).scheme != "https":
            if _exposes_credentials(self.storage.options):
                return Note(
                    "none: passwords and files can be read on the way",
                    "Use an https URL in the option url.",
                )
            return "none: plain HTTP"
        context = _ssl_context(self._end.verify, hidden(self._end.cert))
        try:
            version, certificate = self._handshake(context)
        except ssl.SSLError as error:
            why = _tls_failure(error)
            if isinstance(error, ssl.SSLCertVerificationError):
                told, _, remedy = why.partition(". ")
                why = f"{told}; {_described(self._unverified()[1])[0]}. {remedy}"
            raise ConnectError(why) from error
        except TimeoutError as error:
            raise ConnectError(
                f"the server did not finish the TLS handshake within "
                f"{self._end.connect_timeout:g} s (connect_timeout)"
            ) from error
        verified = bool(certificate)
        told, days = _described(certificate or self._unverified()[1])
        if not verified:
            return Note(
                f"{version}, not verified; {told}",
                "The option verify is off, so anybody may answer: set it to the path of the CA "
                "certificate.",
            )
        if days < FEW_DAYS:
            return Note(f"{version}, verified; {told}", "Renew the server's certificate.")
        return f"{version}, verified; {told}"

    def _handshake(self, context: ssl.SSLContext) -> tuple[str, dict[str, Any]]:
        """Shake hands, and return TLS's version and the certificate, if the context verifies it."""
        with self._dial() as sock, context.wrap_socket(sock, server_hostname=self._host) as tls:
            self._der = tls.getpeercert(binary_form=True) or b""
            return str(tls.version()), cast("dict[str, Any]", tls.getpeercert() or {})

    def _unverified(self) -> tuple[str, dict[str, Any]]:
        """Read a certificate that is not trusted: Python takes apart only what it verified.

        So it is fetched, and verified by itself.
        """
        with suppress(OSError):
            context = self._context(ssl.CERT_NONE)
            self._handshake(context)
            context = self._context(ssl.CERT_REQUIRED)
            context.load_verify_locations(cadata=ssl.DER_cert_to_PEM_cert(self._der))
            flags = int(ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN) | IGNORE_TIME
            context.verify_flags = cast("ssl.VerifyFlags", flags)
            return self._handshake(context)
        return "", {}

    def _context(self, mode: ssl.VerifyMode) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = mode
        if self._end.cert is not None:
            files = (self._end.cert,) if isinstance(self._end.cert, str) else self._end.cert
            context.load_cert_chain(*files)
        return context

    # HTTP

    def _login(self) -> str | None:
        try:
            session = self.session = self._end.connect()
        except AuthenticationError as error:
            told, _, remedy = str(error).partition(". ")
            offered = self._offered()
            if offered:
                told += f"; it offers {', '.join(offered)}"
            if offered == ["Digest"] and self._end.auth == "basic":
                remedy = 'Set the option auth="digest".'
            raise AuthenticationError(f"{told}. {remedy}") from None
        except ConnectError as error:
            self._unusable = error
            return None
        self.stack.callback(session.close)
        if self._end.token is not None:
            return "by token"
        if self._end.username is None:
            return "without the options username and token"
        return f"{self._end.username!r} by {self._end.auth} authentication"

    def _offered(self) -> list[str]:
        """Ask without credentials what the server would take."""
        schemes: list[str] = []
        with suppress(httpx.HTTPError, ConnectError), self._end._http_client() as http:
            request = http.build_request("PROPFIND", self._end.url, headers={"Depth": "0"})
            answer = http.send(request, auth=None, stream=True)
            answer.close()
            schemes = [text.split()[0] for text in answer.headers.get_list("www-authenticate")]
        return list(dict.fromkeys(scheme.strip(",") for scheme in schemes))

    def _session(self) -> str | Note:
        if self._unusable is not None:
            raise self._unusable
        http = self._dav._http
        headers = http.request("OPTIONS", "").headers
        told = "; ".join(
            [
                headers.get("server") or "a server without a name",
                f"DAV {_spaced(headers['dav'])}" if "dav" in headers else "no DAV header",
                f"allows {_spaced(headers['allow'])}" if "allow" in headers else "no Allow header",
            ]
        )
        if not http.can_propfind:
            return Note(
                f"{told}; it does not answer PROPFIND, so it cannot list",
                "On nginx the module dav_ext adds it. Else check that the option url is that of a "
                "WebDAV folder.",
            )
        return told

    def stat(self, session: Session, directory: str) -> Stat:
        """Describe a directory; without PROPFIND only the session's start can tell of the root."""
        if not directory and not self._dav._http.can_propfind:
            return Stat(is_dir=True)
        return session.stat(directory)

    def how_published(self) -> str | Note:
        """Tell how MOVE is kept from overwriting."""
        return "MOVE with Overwrite: F, which this server keeps to"

    def how_replaced(self) -> str:
        """Tell whether a look goes before MOVE."""
        spares = self._dav._habits().move_spares
        return "MOVE with Overwrite: T" + (
            "" if spares else ", after a look: it would replace a folder, too"
        )

    def space(self, directory: str) -> int | None:
        """Ask by RFC 4331."""
        if not self._dav._http.can_propfind:
            return None
        headers = {"Depth": "0", "Content-Type": "application/xml; charset=utf-8"}
        body = b""
        with self._dav._http.stream(
            "PROPFIND", directory, headers, slash=True, content=QUOTA
        ) as response:
            if response.status_code == 207:
                body = b"".join(islice(response.iter_raw(), 16))
        # It is only shown. A property that the server does not have is empty.
        found = re.search(rb"quota-available-bytes[^<>]*>\s*(\d{1,18})\s*<", body)
        return int(found[1]) if found else None


def _spaced(names: str) -> str:
    return ", ".join(name.strip() for name in names.split(","))


def _proxy() -> Note:
    # Where it is, is taken as secret.
    return Note(
        "the line to the server is the proxy's matter",
        "If the login fails, look at the option proxy, too.",
    )


def _described(certificate: dict[str, Any]) -> tuple[str, float]:
    """Tell for whom a certificate is, from whom, and how many days it has left."""
    if not certificate:
        return "its certificate cannot be read", 0
    names = [value for _, value in certificate.get("subjectAltName", ())]
    whose = _common_name(certificate["subject"])
    others = [name for name in names if name != whose]
    end = ssl.cert_time_to_seconds(certificate["notAfter"])
    days = (end - time.time()) / 86400
    count = round(abs(days))
    left = f"{count} day{'s' * (count != 1)} {'left' if days >= 0 else 'ago'}"
    told = (
        f"certificate of {', '.join([whose, *others][:4])} by "
        f"{_common_name(certificate['issuer'])}, ends {time.strftime('%Y-%m-%d', time.gmtime(end))}"
        f" ({left})"
    )
    return told, days


def _common_name(name: Any) -> str:
    fields = {key: value for relative in name for key, value in relative}
    for key in ("commonName", "organizationName"):
        if key in fields:
            return str(fields[key])
    return "nobody named"
