"""How SFTP version 3 is written: packet types, flags, status codes, fields.

After draft-ietf-secsh-filexfer-02, whose sections are named here.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Callable
from typing import NamedTuple

from ..exceptions import ProtocolError

# Packet types (section 3)
INIT, VERSION, OPEN, CLOSE, READ, WRITE = 1, 2, 3, 4, 5, 6
LSTAT, FSTAT, SETSTAT, FSETSTAT, OPENDIR, READDIR = 7, 8, 9, 10, 11, 12
REMOVE, MKDIR, RMDIR, REALPATH, STAT, RENAME = 13, 14, 15, 16, 17, 18
STATUS, HANDLE, DATA, NAME, ATTRS, EXTENDED, EXTENDED_REPLY = 101, 102, 103, 104, 105, 200, 201

# Flags of OPEN (section 6.3)
O_READ, O_WRITE, O_CREAT, O_TRUNC, O_EXCL = 0x01, 0x02, 0x08, 0x10, 0x20

# Status codes (section 7)
OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE, BAD_MESSAGE = 0, 1, 2, 3, 4, 5
NO_CONNECTION, CONNECTION_LOST, OP_UNSUPPORTED = 6, 7, 8

LONGEST_HANDLE = 256
"""Bytes of a handle at the most (section 6.3)."""
LONGEST_FILE = 2**63 - 1
"""Bytes of a file at the most, on the file systems in use."""

_UINT = struct.Struct(">I")
_UINT64 = struct.Struct(">Q")
_USUAL = struct.Struct(">QIIIII")


class StatusError(Exception):
    """The server answered a request with a status other than OK.

    Attributes:
        code: The status code.
        message: The server's words, for people only: they differ from server to server.
    """

    def __init__(self, code: int, message: str = "") -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


ORDINARY = {0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK}
"""Types of what can be read without waiting, or has to be looked at first; 0 is not told."""


class Attributes(NamedTuple):
    """File attributes (section 5); None where the server does not tell."""

    size: int | None = None
    permissions: int | None = None
    atime: int | None = None
    mtime: int | None = None

    @property
    def is_dir(self) -> bool:
        """Whether this is a directory, as far as the server tells."""
        return stat.S_ISDIR(self.permissions or 0)

    @property
    def is_special(self) -> bool:
        """Whether this is a pipe, a device or a socket, as far as the server tells."""
        return stat.S_IFMT(self.permissions or 0) not in ORDINARY


def string(data: bytes) -> bytes:
    """Encode a string (section 3)."""
    return _UINT.pack(len(data)) + data


def encode_path(path: str) -> bytes:
    """Encode a path; the empty one is where the login leads."""
    return string((path or ".").encode("utf-8", "surrogateescape"))


def decode_name(name: bytes) -> str:
    """Decode a name; what is not UTF-8 becomes surrogate escapes."""
    return name.decode("utf-8", "surrogateescape")


def encode_mode(mode: int | None) -> bytes:
    """Encode attributes that hold permission bits, or nothing."""
    return _UINT.pack(0) if mode is None else struct.pack(">II", 0x4, mode)


def encode_times(atime: int, mtime: int) -> bytes:
    """Encode attributes that hold the times of the last access and modification."""
    return struct.pack(">III", 0x8, atime, mtime)


class Body:
    """Reads the fields of an answer; ``violation`` makes the error when it is too short."""

    def __init__(self, data: bytes, violation: Callable[[str], ProtocolError]) -> None:
        self._data = data
        self._violation = violation
        self._at = 0

    def uint(self) -> int:
        """Read a number of 32 bits."""
        value: int = _UINT.unpack(self._take(4))[0]
        return value

    def uint64(self) -> int:
        """Read a number of 64 bits."""
        value: int = _UINT64.unpack(self._take(8))[0]
        return value

    def string(self) -> bytes:
        """Read a string."""
        return self._take(self.uint())

    def attributes(self) -> Attributes:
        """Read attributes."""
        flags = self.uint()
        if flags == 0xF:
            # What servers on Unix send, read in one step.
            size, _, _, *rest = _USUAL.unpack(self._take(_USUAL.size))
            return Attributes(self._plausible(size), *rest)
        size = self._plausible(self.uint64()) if flags & 0x1 else None
        if flags & 0x2:  # uid and gid
            self._take(8)
        permissions = self.uint() if flags & 0x4 else None
        atime, mtime = (self.uint(), self.uint()) if flags & 0x8 else (None, None)
        if flags & 0x80000000:
            for _ in range(self.uint()):
                self.string()
                self.string()
        return Attributes(size, permissions, atime, mtime)

    def _plausible(self, size: int) -> int:
        if size > LONGEST_FILE:
            raise self._violation(f"told of a file of {size} bytes")
        return size

    def more(self) -> bool:
        """Tell whether anything is left."""
        return self._at < len(self._data)

    def _take(self, count: int) -> bytes:
        data = self._data[self._at : self._at + count]
        if len(data) < count:
            raise self._violation("sent an answer that ends too early")
        self._at += count
        return data


def write_head_size(handle: bytes) -> int:
    """Return how many bytes precede the data of a WRITE: length, type, number, handle, place."""
    return 4 + 1 + 4 + 4 + len(handle) + 8 + 4
