"""The steps of ``check`` that SFTP has of its own."""

from __future__ import annotations

import logging
import struct
from contextlib import ExitStack
from typing import Any, cast

from paramiko.ssh_exception import IncompatiblePeer

from ..exceptions import ConnectError, HostKeyError
from ..sftp.frames import StatusError, encode_path
from ..sftp.hostkeys import TrustedKeys
from ..sftp.session import SFTPSession
from ..sftp.ssh import SFTPEndpoint, _Deadline
from ..sftp.transport import LEGACY_CIPHERS, LEGACY_MACS, Transport, _offered
from ..storage import NetworkStorage
from .findings import SESSION, Note, Step
from .way import Way, addresses


class SFTPWay(Way):
    """Goes the way that ``SFTPEndpoint.connect()`` goes, and looks around at each turn."""

    home = "the folder where the login leads"

    def __init__(self, storage: NetworkStorage, stack: ExitStack) -> None:
        super().__init__(storage, stack)
        self._end = cast("SFTPEndpoint", self.endpoint)
        self._keys = TrustedKeys()
        # What a step met that is another one's to tell.
        self._strange: HostKeyError | None = None
        self._incompatible: ConnectError | None = None
        # Where nobody listens to it, Python shows its errors on the terminal.
        log, quiet = logging.getLogger("paramiko"), logging.NullHandler()
        log.addHandler(quiet)
        stack.callback(log.removeHandler, quiet)

    @property
    def _sftp(self) -> SFTPSession:
        return cast("SFTPSession", self.session)

    def connecting(self) -> list[Step]:
        """Return the steps up to a session."""
        end = self._end
        known = "Correct the option known_hosts."
        return [
            Step("name", lambda: addresses(end.host, end.port, "host")),
            Step("tcp", self._tcp, ("name",), "Check the options host and port, and firewalls."),
            Step("ssh", self._ssh, ("tcp",), "Check the options host and port."),
            Step("algorithms", self._algorithms, ("ssh",), "Update the server."),
            Step("host key", self._host_key, ("algorithms",), known),
            Step("login", self._login, ("host key",), "Check username, password, key_filename."),
            Step(SESSION, self._session, ("login",), "Let the server offer SFTP to this user."),
        ]

    def _tcp(self) -> str:
        self._deadline = _Deadline(self._end)
        self._sock = self._end._dial(self._deadline)
        self.stack.callback(self._sock.close)
        host, port = self._sock.getpeername()[:2]
        return f"connected to {f'[{host}]' if ':' in host else host}:{port}"

    def _ssh(self) -> str:
        try:
            self._keys = self._end._trusted()
        except HostKeyError as error:
            self._strange = error
        try:
            with self._end._explained(self._sock, self._deadline):
                self._transport = Transport(self._sock)
                self.stack.callback(self._transport.close)
                self._end._negotiate(self._transport, self._keys, self._deadline)
        except HostKeyError as error:
            self._strange = self._strange or error
        except ConnectError as error:
            if not isinstance(error.__cause__, IncompatiblePeer):
                raise
            self._incompatible = error
        return self._transport.remote_version

    def _algorithms(self) -> str | Note:
        if self._incompatible is not None:
            raise self._incompatible
        at: Any = self._transport
        ciphers, macs = {at.local_cipher, at.remote_cipher}, {at.local_mac, at.remote_mac}
        # AES-GCM needs no MAC, and what was agreed on is not used.
        used = sorted(ciphers) + ([] if any("gcm" in c for c in ciphers) else sorted(macs))
        offered = _offered(bytes(self._sock.first_bytes))
        ours = at.get_security_options().kex
        kex = [name for name in ours if offered and name in offered[0]]
        told = ", ".join([*kex[:1], at.host_key_type, *used])
        weak = [name for name in used if name in LEGACY_CIPHERS + LEGACY_MACS]
        if weak:
            why = f"{', '.join(weak)} of legacy_algorithms is weak. Update the server if you can."
            return Note(told, why)
        return told

    def _host_key(self) -> str:
        key = self._transport.get_remote_server_key()
        kind = key.get_name()
        if self._strange is None:
            return f"{kind} {key.fingerprint}, trusted by {' and '.join(self._keys.sources)}"
        told, _, remedy = str(self._strange).partition(". ")
        if key in self._keys.revoked or not remedy:
            raise self._strange
        file = {"ssh-ed25519": "ed25519", "ssh-rsa": "rsa"}.get(kind, "ecdsa")
        suspect = self._keys.keys or self._keys.fingerprints
        raise HostKeyError(
            f"{told}. {'Somebody may be listening in. ' if suspect else ''}Do not trust it yet: "
            f"compare it with `ssh-keygen -lf /etc/ssh/ssh_host_{file}_key.pub` on the server. "
            f'Only if both are equal, set the option host_key="{key.fingerprint}"'
        )

    def _login(self) -> str:
        with ExitStack() as agent:
            methods = self._end._methods(agent)
            # However long a callable took for that.
            self._deadline = _Deadline(self._end)
            self._sock.give_up_at = self._deadline.end
            with self._end._explained(self._sock, self._deadline):
                self._end._log_in(self._transport, methods, self._deadline)
        handler = self._transport.auth_handler
        by = handler.auth_method if handler is not None else ""
        return f"{self._end._username()!r} by {by}"

    def _session(self) -> str:
        with self._end._explained(self._sock, self._deadline):
            self.session = self._end._start_sftp(self._transport, self._deadline)
        self._sock.give_up_at = None
        extensions = sorted(self._sftp._wire.extensions)
        return f"SFTP 3 with {', '.join(extensions) or 'no extensions'}"

    def how_published(self) -> str | Note:
        """Tell how RENAME is kept from overwriting."""
        # A confined one has found it out for itself.
        session = cast("SFTPSession", self._at_root)
        if session._renames_safely:
            return "RENAME, which this server refuses for a taken name"
        if session._links:
            return "hardlink@openssh.com, which no server makes over a taken name"
        server = "looks and then renames" if session._strict else "may overwrite"
        return Note(
            f"RENAME after a look: this server {server}",
            "Of two saves of one new name in the same moment one may be lost.",
        )

    def how_replaced(self) -> str:
        """Tell which rename replaces."""
        if "posix-rename@openssh.com" in self._sftp._wire.extensions:
            return "posix-rename@openssh.com, atomically"
        return "RENAME, which this server lets replace"

    def space(self, directory: str) -> int | None:
        """Ask by the extension of OpenSSH's PROTOCOL, 4.5."""
        wire = self._sftp._wire
        if "statvfs@openssh.com" not in wire.extensions:
            return None
        request = wire.request_extended("statvfs@openssh.com", encode_path(directory))
        try:
            numbers = struct.unpack(">11Q", wire.extended(request))
        except (StatusError, struct.error):
            return None
        fragment, available = numbers[1], numbers[4]
        return int(fragment * available)
