"""Opening a session: TCP, SSH, the host key, the login, the SFTP subsystem."""

from __future__ import annotations

import getpass
import io
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import paramiko
from paramiko.ssh_exception import (
    AuthenticationException,
    BadAuthenticationType,
    IncompatiblePeer,
    PasswordRequiredException,
    SSHException,
)

from ..exceptions import AuthenticationError, ConnectError, ConnectionLost, NetStorageError
from ..hidden import Hidden, reveal
from .frames import StatusError
from .hostkeys import TrustedKeys
from .session import SFTPSession
from .stream import CHANNEL_WINDOW
from .transport import (
    CIPHERS,
    LEGACY_CIPHERS,
    LEGACY_MACS,
    MACS,
    Socket,
    Transport,
    explain_incompatible,
)
from .wire import Wire

Secret = str | Callable[[], str] | None


@dataclass(frozen=True)
class SFTPEndpoint:
    """Where and as whom to connect; the attributes are the options of SFTPStorage."""

    host: str
    port: int = 22
    username: str | None = None
    password: Secret = field(default=None, repr=False)
    key_filename: str | None = None
    private_key: Secret = field(default=None, repr=False)
    passphrase: Secret = field(default=None, repr=False)
    known_hosts: str | None = None
    host_key: tuple[str, ...] = ()
    legacy_algorithms: tuple[str, ...] = ()
    timeout: float = 30.0
    connect_timeout: float = 10.0

    def __str__(self) -> str:
        """Name the server."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"sftp://{host}:{self.port}"

    def connect(self) -> SFTPSession:
        """Open a session within ``connect_timeout`` seconds.

        Raises:
            HostKeyError: The server is not the one that is trusted; nothing was sent to it.
            AuthenticationError: It refused the login.
            ConnectError: Anything else went wrong on the way.
        """
        trusted = self._trusted()
        with ExitStack() as stack:
            # Before the server waits: callables may take their time.
            methods = self._methods(stack)
            deadline = _Deadline(self)
            sock = self._dial(deadline)
            transport = None
            try:
                with self._explained(sock, deadline):
                    transport = Transport(sock)
                    self._negotiate(transport, trusted, deadline)
                    self._log_in(transport, methods, deadline)
                    session = self._start_sftp(transport, deadline)
                    sock.give_up_at = None
                    return session
            except BaseException:
                if transport is not None:
                    transport.close()
                sock.close()
                raise

    def _trusted(self) -> TrustedKeys:
        trusted = TrustedKeys()
        if self.host_key:
            trusted.add_pins(self.host_key)
        if self.known_hosts:
            trusted.add_known_hosts(self.known_hosts, self.host, self.port)
        return trusted

    def _dial(self, deadline: _Deadline) -> Socket:
        """Connect to the first address that answers, IPv6 or IPv4; they share the time."""
        try:
            addresses = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise ConnectError(
                f"the name {self.host!r} cannot be resolved: "
                f"{getattr(error, 'strerror', None) or error}. "
                "Check the option host."
            ) from error
        failure: OSError | None = None
        for tried, (family, kind, protocol, _, address) in enumerate(addresses):
            sock = None
            try:
                sock = Socket(family, kind, protocol)
                sock.silence = self.timeout
                sock.give_up_at = deadline.end
                sock.settimeout(deadline.left() / (len(addresses) - tried))
                sock.connect(address)
                # paramiko does not: each small exchange would wait 40 ms for a delayed ACK.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            except OSError as error:
                # A machine without IPv6 cannot even make a socket for it.
                if sock is not None:
                    sock.close()
                failure = error
            else:
                return sock
        if isinstance(failure, TimeoutError):
            raise deadline.exceeded("it did not accept a connection") from failure
        if isinstance(failure, ConnectionRefusedError):
            raise ConnectError(
                f"{self} refuses connections. Is the SSH server running, is the option port right?"
            ) from failure
        raise ConnectError(f"{self} cannot be reached: {failure}") from failure

    def _negotiate(
        self, transport: paramiko.Transport, trusted: TrustedKeys, deadline: _Deadline
    ) -> None:
        options = transport.get_security_options()
        added = self.legacy_algorithms
        options.ciphers = CIPHERS + tuple(name for name in LEGACY_CIPHERS if name in added)
        options.digests = MACS + tuple(name for name in LEGACY_MACS if name in added)
        # The server shows the first key of this order that it has: begin with those we know.
        known = [name for name in trusted.key_types if name in options.key_types]
        options.key_types = (*known, *(n for n in options.key_types if n not in known))
        transport.banner_timeout = transport.handshake_timeout = deadline.left()
        transport.start_client(timeout=deadline.left())
        try:
            key = transport.get_remote_server_key()
        except SSHException:
            # start_client() returns without a word when its time is up.
            greeted = b"SSH-" in bytes(getattr(transport.sock, "first_bytes", b""))
            what = "it did not finish the key exchange" if greeted else "it sent no SSH banner"
            raise deadline.exceeded(what) from None
        trusted.verify(key, str(self))

    def _methods(self, stack: ExitStack) -> list[_Method]:
        """Gather what there is to log in with; an agent stays open until ``stack`` ends."""
        methods = [_Method("publickey", key) for key in self._keys(stack)]
        password = reveal(self.password)
        if password is not None:
            methods.append(_Method("password", password))
        if not methods:
            raise AuthenticationError(
                f"there is nothing to log in to {self} with: set the option password, "
                "key_filename or private_key, or run an SSH agent that holds a key"
            )
        return methods

    def _log_in(
        self, transport: paramiko.Transport, methods: list[_Method], deadline: _Deadline
    ) -> None:
        username = self._username()
        refused: list[str] = []
        allowed: list[str] = []
        for method in methods:
            name = method.name
            transport.auth_timeout = deadline.left()
            try:
                # A server that wants a second factor lists what may follow.
                allowed = method.attempt(transport, username)
                if not allowed:
                    return
            except BadAuthenticationType as error:
                allowed = error.allowed_types
                refused.append(name)
            except AuthenticationException as error:
                if "timeout" in str(error).lower():
                    raise deadline.exceeded("it did not answer the login") from error
                refused.append(name)
                if not transport.is_active():
                    raise AuthenticationError(
                        f"{self} ended the connection at the login of {username!r}, after trying "
                        f"{', '.join(refused)}. OpenSSH does so after too many attempts: an SSH "
                        "agent's keys count one by one, key_filename is one attempt"
                    ) from error
            except SSHException as error:
                raise AuthenticationError(
                    f"{self} ended the connection at the login of {username!r}: {error}"
                ) from error
        hint = f"; it allows {', '.join(allowed)}" if allowed else ""
        raise AuthenticationError(
            f"{self} refused the login of {username!r} by {', '.join(refused) or 'one factor'}"
            f"{hint}. Check the options username, password and key_filename."
        )

    def _username(self) -> str:
        if self.username:
            return self.username
        try:
            return getpass.getuser()
        except (KeyError, OSError) as error:
            raise AuthenticationError(
                "the process runs as a user without a name: set the option username"
            ) from error

    def _keys(self, stack: ExitStack) -> list[paramiko.PKey]:
        private_key = reveal(self.private_key)
        if private_key is not None:
            return [self._parse_key(private_key, "private_key")]
        if self.key_filename is not None:
            try:
                text = Hidden(Path(self.key_filename).expanduser().read_text("ascii"))
            except (OSError, ValueError) as error:
                raise AuthenticationError(
                    f"the option key_filename names {self.key_filename}, which cannot be read: "
                    f"{getattr(error, 'strerror', None) or 'it is no text'}"
                ) from error
            return [self._parse_key(text, "key_filename")]
        if self.password is None:
            try:
                agent = paramiko.Agent()
            except (SSHException, OSError) as error:
                problem = str(error)
            else:
                stack.callback(agent.close)
                return list(agent.get_keys())
            # Out here, since the error would keep the agent's open socket alive.
            raise AuthenticationError(f"the SSH agent does not work: {problem}")
        return []

    def _parse_key(self, text: str, option: str) -> paramiko.PKey:
        passphrase = reveal(self.passphrase)
        for kind in (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey):
            try:
                return kind.from_private_key(io.StringIO(text), passphrase)
            except PasswordRequiredException:
                raise AuthenticationError(
                    f"the key of the option {option} is encrypted: set the option passphrase"
                ) from None
            except (SSHException, ValueError, TypeError, LookupError, AssertionError, struct.error):
                # Not of this kind; the libraries' words may quote the key.
                continue
        raise AuthenticationError(
            f"the option {option} holds no key that can be used: it must be a private key of type "
            "Ed25519, ECDSA or RSA, and the passphrase the right one (`ssh-keygen -p -f FILE` "
            "brings a key into OpenSSH's form)"
        ) from None

    def _start_sftp(self, transport: paramiko.Transport, deadline: _Deadline) -> SFTPSession:
        channel = transport.open_session(window_size=CHANNEL_WINDOW, timeout=deadline.left())
        wire = Wire(channel, self.timeout, str(self))
        wire.stream.set_timeout(deadline.left())
        try:
            channel.invoke_subsystem("sftp")
        except SSHException as error:
            raise ConnectError(
                f"{self} does not offer SFTP to this user: it refused the subsystem"
            ) from error
        wire.stream.set_timeout(deadline.left())
        try:
            wire.start()
        except StatusError as error:
            raise ConnectError(f"{self} does not speak SFTP: {error.message}") from error
        except ConnectionLost as error:
            raise ConnectError(
                f"{self} ended SFTP as soon as it had begun: may this user use it, and is the "
                "server's SFTP program there?"
            ) from error
        except TimeoutError as error:
            raise deadline.exceeded("it did not start SFTP") from error
        wire.stream.set_timeout()
        return SFTPSession(transport, wire)

    @contextmanager
    def _explained(self, sock: Socket, deadline: _Deadline) -> Iterator[None]:
        """Tell what goes wrong on the way in our words."""
        try:
            yield
        except ConnectError:
            raise
        except NetStorageError as error:
            if deadline.left() <= MOMENT:
                raise deadline.exceeded("it fell silent") from error
            raise ConnectError(str(error)) from error
        except IncompatiblePeer as error:
            raise ConnectError(
                explain_incompatible(str(self), bytes(sock.first_bytes), str(error))
            ) from error
        except TimeoutError as error:
            raise deadline.exceeded("it fell silent") from error
        except (SSHException, EOFError, OSError) as error:
            if b"SSH-" not in bytes(sock.first_bytes):
                if deadline.left() <= MOMENT:
                    raise deadline.exceeded("it sent no SSH banner") from error
                raise ConnectError(
                    f"{self} does not answer as an SSH server. Check the options host and port."
                ) from error
            if deadline.left() <= MOMENT:
                raise deadline.exceeded("it fell silent") from error
            raise ConnectError(
                f"{self} ended the connection: {str(error) or 'without a word'}"
            ) from error
        except Exception as error:
            # paramiko hands on whatever it met when it took apart what came.
            raise ConnectError(
                f"what came from {self} is no SSH, or the line garbled it "
                f"({type(error).__name__}: {error}). If it happens again, look at what lies "
                "between: a proxy, a firewall, a broken network card"
            ) from error


@dataclass(frozen=True)
class _Method:
    """One thing to log in with."""

    name: str
    secret: paramiko.PKey | str = field(repr=False)

    def attempt(self, transport: paramiko.Transport, username: str) -> list[str]:
        """Try it; return the methods one of which the server wants in addition."""
        if isinstance(self.secret, paramiko.PKey):
            return list(transport.auth_publickey(username, self.secret))
        return list(transport.auth_password(username, self.secret))


MOMENT = 0.001
"""Seconds that stand for no time left: some of paramiko's time-outs take 0 for none."""


class _Deadline:
    """The end of ``connect_timeout``."""

    def __init__(self, endpoint: SFTPEndpoint) -> None:
        self._endpoint = endpoint
        self.end = time.monotonic() + endpoint.connect_timeout

    def left(self) -> float:
        """Return the seconds that are left."""
        return max(MOMENT, self.end - time.monotonic())

    def exceeded(self, what: str) -> ConnectError:
        """Make the error that says what had not happened by then."""
        seconds = self._endpoint.connect_timeout
        return ConnectError(
            f"{self._endpoint} did not answer in time: {what} within {seconds:g} s "
            "(connect_timeout)"
        )
