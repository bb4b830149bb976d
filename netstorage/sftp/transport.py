"""What a connection is made of: algorithms, and paramiko's parts where those would wait on."""

from __future__ import annotations

import errno
import socket
import struct
import time
from typing import Any

import paramiko
from paramiko.common import cMSG_SERVICE_REQUEST

# What a connection is protected with unless the option legacy_algorithms adds to it. AES-GCM comes
# first: one pass over a packet instead of two.
CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "aes128-ctr",
    "aes192-ctr",
    "aes256-ctr",
)
MACS = (
    "hmac-sha2-256-etm@openssh.com",
    "hmac-sha2-512-etm@openssh.com",
    "hmac-sha2-256",
    "hmac-sha2-512",
)
LEGACY_CIPHERS = ("aes128-cbc", "aes192-cbc", "aes256-cbc", "3des-cbc")
LEGACY_MACS = ("hmac-sha1", "hmac-sha1-96", "hmac-md5", "hmac-md5-96")

LONGEST_PACKET = 2**18
"""Bytes of an SSH packet at the most, as OpenSSH has it: paramiko would take what is announced."""
LONGEST_START = 2**18
"""Bytes that a server may send until a session is open."""


class Transport(paramiko.Transport):
    """A transport that requests the service of logging in once (RFC 4253, section 10).

    paramiko repeats the request before each attempt. OpenSSH does not mind; asyncssh and the
    servers written in Go end the connection, so that a second key or a password had no chance.
    """

    _requested = False

    def _send_message(self, data: paramiko.Message) -> None:
        if not self.is_authenticated() and data.asbytes()[:1] == cMSG_SERVICE_REQUEST:
            if self._requested and self.auth_handler is not None:
                accepted = paramiko.Message()
                accepted.add_string("ssh-userauth")
                accepted.rewind()
                self.auth_handler._parse_service_accept(accepted)  # type: ignore[attr-defined]
                return
            self._requested = True
        super()._send_message(data)  # type: ignore[misc]


class Socket(socket.socket):
    """A socket whose waits end: some of paramiko's have no deadline of their own.

    It repeats a send for ever while the peer takes nothing, and so it waits for the answer to the
    request for a subsystem.

    Attributes:
        silence: Seconds without progress after which a send fails.
        give_up_at: When receiving ends, in ``time.monotonic()``'s seconds; None: never.
        stalled: Whether a send failed for want of progress.
        first_bytes: The beginning of what the server said, up to its list of algorithms.
    """

    silence = 30.0

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._stalled_since: float | None = None
        self.stalled = False
        self.give_up_at: float | None = None
        self.first_bytes = bytearray()
        self._received = 0

    def send(self, data: Any, flags: int = 0) -> int:
        """Send, but not for ever."""
        try:
            sent = super().send(data, flags)
        except TimeoutError:
            now = time.monotonic()
            self._stalled_since = self._stalled_since or now
            if now - self._stalled_since >= self.silence:
                self.stalled = True
                raise BrokenPipeError("the server stopped taking data") from None
            raise
        self._stalled_since = None
        return sent

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Receive, until the time to connect is over."""
        if self.give_up_at is not None and time.monotonic() > self.give_up_at:
            raise ConnectionAbortedError(errno.ECONNABORTED, "the time to connect is over")
        # The packet's length is the server's word, and the same bytes wait for all of it.
        if bufsize > LONGEST_PACKET:
            message = f"it announced a packet of {bufsize} bytes"
            raise ConnectionAbortedError(errno.ECONNABORTED, message)
        data = super().recv(bufsize, flags)
        if self.give_up_at is not None:
            self._received += len(data)
            if self._received > LONGEST_START:
                message = f"it sent more than {LONGEST_START} bytes before a session was open"
                raise ConnectionAbortedError(errno.ECONNABORTED, message)
        if len(self.first_bytes) < 8192:
            self.first_bytes += data
        return data


def explain_incompatible(server: str, first_bytes: bytes, error: str) -> str:
    """Say which algorithms a server insists on (KEXINIT, RFC 4253 section 7.1)."""
    kinds = {"kex": 0, "host key": 1, "cipher": 2, "mac": 4, "digest": 4}
    which = next((kind for kind in kinds if kind in error), None)
    message = f"{server} and this client have no algorithm in common: {error}."
    if which is None or not (lists := _offered(first_bytes)):
        return message
    names = lists[kinds[which]]
    message += f" The server offers {', '.join(names)}."
    usable = [name for name in names if name in LEGACY_CIPHERS + LEGACY_MACS]
    if usable:
        return message + f' If it cannot be updated, set legacy_algorithms=["{usable[0]}"].'
    return message + " None of them is supported any more: update the server."


def _offered(first_bytes: bytes) -> list[list[str]]:
    _, _, rest = first_bytes.partition(b"SSH-")
    _, _, packet = rest.partition(b"\n")
    try:
        at = 4 + 1 + 1 + 16  # length, padding, message number, cookie
        lists = []
        for _ in range(6):
            (length,) = struct.unpack_from(">I", packet, at)
            lists.append(packet[at + 4 : at + 4 + length].decode("ascii").split(","))
            at += 4 + length
    except (struct.error, UnicodeDecodeError):
        return []
    return lists
