"""What a refusal means: SFTP's few codes in Python's words, after a look where they are vague."""

from __future__ import annotations

import errno
import os
import posixpath
import struct
from typing import NamedTuple

from ..exceptions import ProtocolError
from . import frames
from .frames import Attributes, StatusError, encode_path
from .wire import Wire

LONGEST_NAME, LONGEST_PATH = 255, 4095
"""Bytes of a name and of a path at the most, on the file systems in use."""


# Codes of later drafts that servers send in version 3, too (draft-ietf-secsh-filexfer-13, 9.1).
_ERRNO = {
    frames.NO_SUCH_FILE: errno.ENOENT,
    frames.PERMISSION_DENIED: errno.EACCES,
    frames.BAD_MESSAGE: errno.EINVAL,  # what OpenSSH makes of EINVAL and ENAMETOOLONG
    frames.OP_UNSUPPORTED: errno.ENOTSUP,
    10: errno.ENOENT,  # NO_SUCH_PATH
    11: errno.EEXIST,
    12: errno.EROFS,
    14: errno.ENOSPC,
    15: errno.EDQUOT,
    17: errno.EBUSY,  # LOCK_CONFLICT
    18: errno.ENOTEMPTY,
    19: errno.ENOTDIR,
    20: errno.EINVAL,  # INVALID_FILENAME
    24: errno.EISDIR,
}


class Verdicts:
    """Asks a server what it has, and makes errors of what it says.

    Args:
        wire: SFTP on an open channel.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def attributes(self, path: str, *, follow: bool = True) -> Attributes:
        """Return what is there, or raise what the server says instead."""
        kind = frames.STAT if follow else frames.LSTAT
        try:
            return self._wire.attributes(self._wire.request(kind, encode_path(path)))
        except StatusError as error:
            raise self._missing(error, path) or self.error(error, path) from error

    def _missing(self, error: StatusError, path: str) -> FileNotFoundError | None:
        """Tell a refusal that a missing directory explains, or a file in its place.

        For such a path most servers say NO_SUCH_FILE; ProFTPD does not.
        """
        parent = posixpath.dirname(path)
        vague = error.code in {frames.FAILURE, frames.PERMISSION_DENIED}
        if not vague or parent in {"", "/", path}:
            return None
        try:
            if self.attributes(parent).is_dir:
                return None
        except FileNotFoundError:
            pass
        except PermissionError:
            return None
        return FileNotFoundError(errno.ENOENT, f"there is no directory {parent}", path)

    def look(self, path: str, *, follow: bool = True) -> Attributes | None:
        """Return what is there, or None if nothing is or it cannot be seen."""
        try:
            return self.attributes(path, follow=follow)
        except OSError as error:
            if isinstance(error, (ConnectionError, TimeoutError, ProtocolError)):
                raise
            return None

    def error(self, error: StatusError, path: str) -> OSError:
        """Tell a status in Python's words; 4 (FAILURE) stands for whatever has no code.

        To a path that is too long OpenSSH says BAD_MESSAGE or FAILURE, ProFTPD other things.
        """
        number = _ERRNO.get(error.code, errno.EIO)
        if error.code != frames.NO_SUCH_FILE and _is_too_long(path):
            number = errno.ENAMETOOLONG
        words = os.strerror(number) if number != errno.EIO else "the server refused"
        said = f" (it says: {error.message[:200]!r})" if error.message else ""
        return OSError(number, words + said, path)

    def open_error(self, path: str, error: StatusError, *, creating: bool = False) -> OSError:
        """Find out what a refused OPEN meant."""
        if error.code in {frames.FAILURE, frames.PERMISSION_DENIED} and not _is_too_long(path):
            there = self.look(path)
            if there is not None and there.is_dir:
                return IsADirectoryError(errno.EISDIR, "is a directory", path)
            if creating and there is not None:
                return FileExistsError(errno.EEXIST, "the name is taken", path)
            parent = posixpath.dirname(path)
            above = self.look(parent) if creating else None
            if creating and above is None:
                return FileNotFoundError(errno.ENOENT, "its directory is missing", path)
            if above is not None and not above.is_dir:
                return no_directory(parent, path)
            if creating:
                return self.disk_error(error, path) or self.error(error, path)
        return self._missing(error, path) or self.error(error, path)

    def not_a_directory(self, path: str, error: StatusError) -> OSError:
        """Find out whether a listing was refused because there is a file."""
        there = self.look(path)
        if there is not None and not there.is_dir:
            return NotADirectoryError(errno.ENOTDIR, "is not a directory", path)
        return self.error(error, path)

    def write_error(self, error: StatusError, path: str) -> OSError:
        """Find out what a refused WRITE meant."""
        disk = self._disk(path) if error.code == frames.FAILURE else None
        if disk is not None and not disk.full and not disk.read_only:
            return OSError(
                errno.EDQUOT,
                "the server refused the data though its disk has room: most likely a quota or a "
                f"limit for the size of files is reached (it says: {error.message[:200]!r})",
                path,
            )
        return self.disk_error(error, path, disk) or self.error(error, path)

    def disk_error(
        self, error: StatusError, path: str, disk: _Disk | None = None
    ) -> OSError | None:
        """Tell a failure that the disk explains."""
        if error.code != frames.FAILURE or (disk := disk or self._disk(path)) is None:
            return None
        if disk.read_only:
            return OSError(errno.EROFS, "the server's disk is read-only", path)
        return OSError(errno.ENOSPC, "no space left on the server", path) if disk.full else None

    def _disk(self, path: str) -> _Disk | None:
        """Ask about the disk that ``path`` would be on (OpenSSH PROTOCOL, 4.5)."""
        wire = self._wire
        if "statvfs@openssh.com" not in wire.extensions:
            return None
        name = encode_path(posixpath.dirname(path))
        try:
            reply = wire.extended(wire.request_extended("statvfs@openssh.com", name))
            numbers = struct.unpack(">11Q", reply)
        except (StatusError, struct.error):
            return None
        available, all_inodes, inodes, flags = numbers[4], numbers[5], numbers[7], numbers[9]
        return _Disk(
            full=available == 0 or (inodes == 0 and all_inodes > 0), read_only=bool(flags & 1)
        )


class _Disk(NamedTuple):
    """What may keep a disk from taking a file."""

    full: bool
    read_only: bool


def _is_too_long(path: str) -> bool:
    encoded = path.encode("utf-8", "surrogateescape")
    return len(encoded) > LONGEST_PATH or max(map(len, encoded.split(b"/"))) > LONGEST_NAME


def no_directory(parent: str, path: str) -> FileExistsError:
    """Make FileSystemStorage's error for a file where a directory is needed."""
    return FileExistsError(errno.EEXIST, f"{parent} exists and is not a directory.", path)
