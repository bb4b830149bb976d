"""The session's verbs, spoken in SFTP requests."""

from __future__ import annotations

import errno
import logging
import os
import posixpath
import stat as modes
import struct
from collections import deque
from collections.abc import Iterable, Sized
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, cast

from ..exceptions import ProtocolError
from ..session import Entry, Session, Sink, Stat
from . import wire as w
from .wire import Attributes, StatusError, Wire, encode_mode, string

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from paramiko import Transport

logger = logging.getLogger("netstorage.sftp")

PING_TIMEOUT = 3.0
"""Seconds that an idle session has for a sign of life."""
LONGEST_NAME, LONGEST_PATH = 255, 4095
"""Bytes of a name and of a path at the most, on the file systems in use."""

# Servers whose RENAME and MKDIR refuse an existing name, as section 6.5 of the draft wants it.
# Go's server overwrites; of unknown ones nothing is assumed.
STRICT_SERVERS = ("OpenSSH", "mod_sftp", "AsyncSSH")

# Codes of later drafts that servers send in version 3, too (draft-ietf-secsh-filexfer-13, 9.1).
_ERRNO = {
    w.NO_SUCH_FILE: errno.ENOENT,
    w.PERMISSION_DENIED: errno.EACCES,
    w.BAD_MESSAGE: errno.EINVAL,  # what OpenSSH makes of EINVAL and ENAMETOOLONG
    w.OP_UNSUPPORTED: errno.ENOTSUP,
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


class SFTPSession(Session):
    """One SSH connection with one SFTP channel.

    Args:
        transport: The authenticated connection.
        wire: SFTP on its channel, started.
    """

    def __init__(self, transport: Transport, wire: Wire) -> None:
        self._transport = transport
        self._wire = wire
        software = transport.remote_version.split("-", 2)[-1]
        self._strict = software.startswith(STRICT_SERVERS)
        self._links: bool | None = None

    # The connection

    def is_alive(self) -> bool:
        """Tell whether the connection stands and nothing is left unanswered on it."""
        return self._transport.is_active() and self._wire.idle

    def ping(self) -> None:
        """Ask for the attributes of the login directory; a refusal is a sign of life, too."""
        self._wire.set_timeout(PING_TIMEOUT)
        self._look("")
        self._wire.set_timeout()

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def abandon(self) -> None:
        """Close this process's end of the socket, and nothing else."""
        self._transport.sock.close()
        channel = self._wire.channel
        # Should it ever be collected, it must neither speak nor wait for a lock of the parent's.
        channel.closed = True

    # Looking

    def stat(self, path: str, *, follow: bool = True) -> Stat:
        """Describe a file: one round trip."""
        return _as_stat(self._attributes(path, follow=follow))

    def listdir(self, path: str) -> Iterable[Entry]:
        """Read a directory; READDIRs go out twice as many at a time while names keep coming."""
        wire = self._wire
        try:
            handle = wire.handle(wire.request(w.OPENDIR, _name(path)))
        except StatusError as error:
            raise self._not_a_directory(path, error) from error
        entries: dict[str, Attributes] = {}
        in_flight = 2
        at_end = False
        failure: StatusError | None = None
        while not at_end and failure is None:
            known = len(entries)
            for request in [wire.request(w.READDIR, string(handle)) for _ in range(in_flight)]:
                try:
                    names = wire.names(request)
                except StatusError as error:
                    failure = failure or error
                else:
                    at_end = at_end or not names
                    entries.update((_decode(name), attributes) for name, attributes in names or ())
            if len(entries) == known and not at_end and failure is None:
                raise wire.violation("lists the same names over and over")
            in_flight = min(in_flight * 2, w.IN_FLIGHT_REQUESTS)
        self._close(handle)
        if failure is not None:
            raise self._not_a_directory(path, failure)
        # A name with a slash would lead somewhere else.
        named = [e for e in entries.items() if e[0] not in {"", ".", ".."} and "/" not in e[0]]
        return self._entries(path, named)

    def _entries(self, path: str, named: list[tuple[str, Attributes]]) -> list[Entry]:
        """Tell directories from files; links, and what has no type, are looked up in flight."""
        wire = self._wire
        is_dir = {name: modes.S_ISDIR(attributes.permissions or 0) for name, attributes in named}
        unknown = [
            name
            for name, attributes in named
            if attributes.permissions is None or modes.S_ISLNK(attributes.permissions)
        ]
        for start in range(0, len(unknown), w.IN_FLIGHT_REQUESTS):
            batch = unknown[start : start + w.IN_FLIGHT_REQUESTS]
            requests = [wire.request(w.STAT, _name(posixpath.join(path, name))) for name in batch]
            for name, request in zip(batch, requests, strict=True):
                try:
                    is_dir[name] = _is_dir(wire.attributes(request))
                except StatusError:
                    # A link to nowhere, to itself, or to what we may not see: no directory.
                    is_dir[name] = False
        return [Entry(name, is_dir[name]) for name in is_dir]

    def _attributes(self, path: str, *, follow: bool = True) -> Attributes:
        kind = w.STAT if follow else w.LSTAT
        try:
            return self._wire.attributes(self._wire.request(kind, _name(path)))
        except StatusError as error:
            raise self._error(error, path) from error

    def _look(self, path: str, *, follow: bool = True) -> Attributes | None:
        """Return what is there, or None if nothing is or it cannot be seen."""
        try:
            return self._attributes(path, follow=follow)
        except OSError as error:
            if isinstance(error, (ConnectionError, TimeoutError, ProtocolError)):
                raise
            return None

    # Reading

    def read(self, path: str, start: int, stop: int | None, sink: Sink) -> Stat:
        """Read a range with READs in flight: two round trips for what fits into one request."""
        wire = self._wire
        try:
            handle = wire.handle(
                wire.request(w.OPEN, _name(path) + struct.pack(">II", w.O_READ, 0))
            )
        except StatusError as error:
            raise self._open_error(path, error) from error
        fstat = wire.request(w.FSTAT, string(handle))
        failure: StatusError | None = None
        reads: deque[tuple[int, int, int]] = deque()
        # The length is not known yet: a first READ travels with the question for it.
        limit = start + wire.max_read if stop is None else stop
        offset = start
        end: int | None = None
        attributes: Attributes | None = None
        while True:
            while offset < limit and failure is None and self._has_room(reads, wire.max_read):
                length = min(wire.max_read, limit - offset)
                reads.append((wire.request_read(handle, offset, length, sink), offset, length))
                offset += length
            try:
                if attributes is None:
                    attributes = wire.attributes(fstat)
                    end = attributes.size
                    limit = min(x for x in (stop, end, 2**63) if x is not None)
                    continue
                if not reads:
                    break
                request, at, length = reads.popleft()
                count = wire.data(request)
            except StatusError as error:
                failure = failure or error
                if attributes is None:
                    attributes = Attributes()
                continue
            if count == 0:
                limit = min(limit, at)
            elif (rest := min(at + length, limit) - at - count) > 0 and failure is None:
                # A short answer says nothing of the end: ask for the rest.
                at += count
                reads.appendleft((wire.request_read(handle, at, rest, sink), at, rest))
        self._close(handle)
        if _is_dir(attributes):
            raise IsADirectoryError(errno.EISDIR, "is a directory", path)
        if failure is not None:
            raise self._error(failure, path)
        return _as_stat(attributes)

    @staticmethod
    def _has_room(in_flight: Sized, length: int) -> bool:
        return (
            len(in_flight) < w.IN_FLIGHT_REQUESTS
            and (len(in_flight) + 1) * length <= w.IN_FLIGHT_BYTES
        )

    # Writing

    def write(self, path: str, source: BinaryIO, size: int, mode: int | None) -> None:
        """Create a file: its data, mode, sync, size check and close go in one flight.

        Every answer is examined before this returns, so a rename may follow. It must not travel in
        the same flight: the server would run it even after a WRITE that failed.
        """
        self._require_plain(path)
        wire = self._wire
        flags = struct.pack(">I", w.O_WRITE | w.O_CREAT | w.O_EXCL)
        try:
            # With the mode at once, a private file is never readable by others for a moment.
            handle = wire.handle(wire.request(w.OPEN, _name(path) + flags + encode_mode(mode)))
        except StatusError as error:
            raise self._open_error(path, error, creating=True) from error
        writes, failure = self._send_data(handle, source, size)
        chmod = None
        if mode is not None and failure is None:
            chmod = wire.request(w.FSETSTAT, string(handle) + encode_mode(mode))
        sync = None
        if "fsync@openssh.com" in wire.extensions and failure is None:
            sync = wire.request_extended("fsync@openssh.com", string(handle))
        fstat = wire.request(w.FSTAT, string(handle))
        close = wire.request(w.CLOSE, string(handle))

        failure = self._first_failure((*writes, sync), failure)
        mode_failure = self._failure_of(chmod)
        attributes = Attributes()
        try:
            attributes = wire.attributes(fstat)
        except StatusError as error:
            failure = failure or error
        # What a server could not write any more it may tell at the end only.
        failure = self._first_failure((close,), failure)
        if failure is not None:
            raise self._write_error(failure, path)
        if attributes.size not in {size, None}:
            raise OSError(
                errno.EIO,
                f"the server holds {attributes.size} of {size} bytes that were sent",
                path,
            )
        if mode_failure is not None and (
            mode is None or modes.S_IMODE(attributes.permissions or 0) != mode
        ):
            refusal = self._error(mode_failure, path)
            refusal.strerror = (
                f"the server does not let the mode be set to {mode or 0:o} ({refusal.strerror}); "
                "set file_permissions_mode to what it gives, or FILE_UPLOAD_PERMISSIONS to None"
            )
            raise refusal

    def _send_data(
        self, handle: bytes, source: BinaryIO, size: int
    ) -> tuple[deque[int], StatusError | None]:
        """Send the data within the bounds of a flight.

        Returns:
            The WRITEs whose answers are still owed, and the first answer that was bad.
        """
        wire = self._wire
        head = w.write_head_size(handle)
        frame = memoryview(bytearray(head + min(wire.max_write, max(size, 1))))
        writes: deque[int] = deque()
        failure: StatusError | None = None
        offset = 0
        source.seek(0)
        while offset < size and failure is None:
            count = _read_into(source, frame[head : head + min(wire.max_write, size - offset)])
            if not count:
                # Nothing has its name yet: what was sent is removed with the temporary file.
                failure = StatusError(-1, f"the content ended at {offset} of {size} bytes")
                break
            if not self._has_room(writes, wire.max_write):
                failure = self._failure_of(writes.popleft())
            writes.append(wire.request_write(frame, handle, offset, count))
            offset += count
        return writes, failure

    def _first_failure(
        self, requests: Iterable[int | None], failure: StatusError | None
    ) -> StatusError | None:
        """Wait for the answer to each request; return ``failure`` or the first bad answer."""
        for request in requests:
            refused = self._failure_of(request)
            failure = failure or refused
        return failure

    def _failure_of(self, request: int | None) -> StatusError | None:
        if request is None:
            return None
        try:
            self._wire.status(request)
        except StatusError as error:
            return error
        return None

    # Naming

    def rename(self, source: str, target: str) -> None:
        """Rename without replacing.

        RENAME refuses an existing target on servers that keep to the draft (6.5); on others a hard
        link does, where they can; at the worst a look just before is all there is.
        """
        if not self._strict:
            self._require_plain(target)
            if self._link(source, target):
                return
            if self._look(target, follow=False) is not None:
                raise FileExistsError(errno.EEXIST, "the name is taken", target)
        try:
            self._wire.status(self._wire.request(w.RENAME, _name(source) + _name(target)))
        except StatusError as error:
            if self._look(target, follow=False) is not None:
                raise FileExistsError(errno.EEXIST, "the name is taken", target) from error
            raise self._error(error, target) from error

    def _link(self, source: str, target: str) -> bool:
        """Try to rename by a hard link, which no server makes over another file."""
        if not self._can_link(source):
            return False
        wire = self._wire
        names = _name(source) + _name(target)
        if self._failure_of(wire.request_extended("hardlink@openssh.com", names)) is not None:
            return False
        left = self._failure_of(wire.request(w.REMOVE, _name(source)))
        if left is not None:
            logger.warning("published %s, but %s stays beside it: %s", target, source, left.message)
        return True

    def _can_link(self, source: str) -> bool:
        """Find out by an experiment whether links are made: rclone says OK and makes none."""
        wire = self._wire
        if self._links is None:
            probe = f"{source}-link"
            names = _name(source) + _name(probe)
            self._links = (
                "hardlink@openssh.com" in wire.extensions
                and self._failure_of(wire.request_extended("hardlink@openssh.com", names)) is None
                and self._look(probe, follow=False) is not None
            )
            if self._links:
                self.remove(probe)
        return self._links

    def replace(self, source: str, target: str) -> None:
        """Rename over what is there, atomically."""
        self._require_plain(target)
        wire = self._wire
        names = _name(source) + _name(target)
        atomic = "posix-rename@openssh.com" in wire.extensions
        if atomic:
            request = wire.request_extended("posix-rename@openssh.com", names)
        else:
            request = wire.request(w.RENAME, names)
        try:
            wire.status(request)
        except StatusError as error:
            there = self._look(target, follow=False)
            if there is not None and _is_dir(there):
                raise IsADirectoryError(errno.EISDIR, "is a directory", target) from error
            if there is not None and not atomic:
                raise OSError(
                    errno.ENOTSUP,
                    "the server cannot replace a file atomically (it lacks the extension "
                    "posix-rename@openssh.com); delete the file first, or save under another name",
                    target,
                ) from error
            raise self._error(error, target) from error

    def makedirs(self, path: str, mode: int | None) -> None:
        """Make the missing levels of a path in one flight; existing ones are no error."""
        wire = self._wire
        levels = [path]
        while (parent := posixpath.dirname(levels[0])) not in {"", "/", levels[0]}:
            levels.insert(0, parent)
        # A lax server may say OK to a directory that was there, whose mode is not ours to set.
        missing = [x for x in levels if self._strict or self._look(x) is None]
        requests = {x: wire.request(w.MKDIR, _name(x) + encode_mode(mode)) for x in missing}
        failures = {x: self._failure_of(request) for x, request in requests.items()}
        if mode is not None:
            # The server's umask took its part; as with FileSystemStorage, our mode prevails.
            made = [x for x, failure in failures.items() if failure is None]
            chmods = {x: wire.request(w.SETSTAT, _name(x) + encode_mode(mode)) for x in made}
            for level, failure in [(x, self._failure_of(c)) for x, c in chmods.items()]:
                if failure is not None:
                    raise self._error(failure, level)
        if path in failures and failures[path] is None:
            return
        # Somebody else's directory will do. Blame the first level that is none.
        for level in levels:
            there = self._look(level)
            if there is not None and not _is_dir(there):
                raise _no_directory(level, path)
            if there is None and (failure := failures.get(level)) is not None:
                raise self._disk_error(failure, level) or self._error(failure, level)

    def remove(self, path: str) -> None:
        """Remove a file; if that does not work because it is a directory, an empty directory."""
        wire = self._wire
        try:
            wire.status(wire.request(w.REMOVE, _name(path)))
        except StatusError as error:
            # OpenSSH says 4 for a directory on Linux, 3 on other systems.
            if error.code == w.NO_SUCH_FILE or not _is_dir(self._attributes(path, follow=False)):
                raise self._error(error, path) from error
        else:
            return
        try:
            wire.status(wire.request(w.RMDIR, _name(path)))
        except StatusError as error:
            if error.code == w.FAILURE and self._look(path, follow=False) is not None:
                raise OSError(errno.ENOTEMPTY, "the directory is not empty", path) from error
            raise self._error(error, path) from error

    def _require_plain(self, path: str) -> None:
        """Refuse names that rclone, and who knows who else, takes and does not find again."""
        if not self._strict and any(character < " " or character == "\x7f" for character in path):
            raise OSError(
                errno.EINVAL, "control characters in a name may not survive on this server", path
            )

    def _close(self, handle: bytes) -> None:
        """Close a handle that was only read from: its answer can tell nothing that matters."""
        self._wire.ignore(self._wire.request(w.CLOSE, string(handle)))
        self._wire.flush()

    # Errors

    def _error(self, error: StatusError, path: str) -> OSError:
        """Tell a status in Python's words; 4 (FAILURE) stands for whatever has no code."""
        number = _ERRNO.get(error.code, errno.EIO)
        if error.code in {w.FAILURE, w.BAD_MESSAGE} and _is_too_long(path):
            number = errno.ENAMETOOLONG
        words = os.strerror(number) if number != errno.EIO else "the server refused"
        said = f" (it says: {error.message[:200]!r})" if error.message else ""
        return OSError(number, words + said, path)

    def _open_error(self, path: str, error: StatusError, *, creating: bool = False) -> OSError:
        if error.code in {w.FAILURE, w.PERMISSION_DENIED} and not _is_too_long(path):
            there = self._look(path)
            if there is not None and _is_dir(there):
                return IsADirectoryError(errno.EISDIR, "is a directory", path)
            if creating and there is not None:
                return FileExistsError(errno.EEXIST, "the name is taken", path)
            parent = posixpath.dirname(path)
            above = self._look(parent) if creating else None
            if creating and above is None:
                return FileNotFoundError(errno.ENOENT, "its directory is missing", path)
            if above is not None and not _is_dir(above):
                return _no_directory(parent, path)
            if creating:
                return self._disk_error(error, path) or self._error(error, path)
        return self._error(error, path)

    def _not_a_directory(self, path: str, error: StatusError) -> OSError:
        there = self._look(path)
        if there is not None and not _is_dir(there):
            return NotADirectoryError(errno.ENOTDIR, "is not a directory", path)
        return self._error(error, path)

    def _write_error(self, error: StatusError, path: str) -> OSError:
        """Find out what a refused WRITE meant."""
        if error.code == -1:
            return OSError(errno.EIO, error.message, path)
        disk = self._disk(path) if error.code == w.FAILURE else None
        if disk is not None and not disk.full and not disk.read_only:
            return OSError(
                errno.EDQUOT,
                "the server refused the data though its disk has room: most likely a quota or a "
                f"limit for the size of files is reached (it says: {error.message[:200]!r})",
                path,
            )
        return self._disk_error(error, path, disk) or self._error(error, path)

    def _disk_error(
        self, error: StatusError, path: str, disk: _Disk | None = None
    ) -> OSError | None:
        """Tell a failure that the disk explains."""
        if error.code != w.FAILURE or (disk := disk or self._disk(path)) is None:
            return None
        if disk.read_only:
            return OSError(errno.EROFS, "the server's disk is read-only", path)
        return OSError(errno.ENOSPC, "no space left on the server", path) if disk.full else None

    def _disk(self, path: str) -> _Disk | None:
        """Ask about the disk that ``path`` would be on (OpenSSH PROTOCOL, 4.5)."""
        wire = self._wire
        if "statvfs@openssh.com" not in wire.extensions:
            return None
        name = _name(posixpath.dirname(path))
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


def _read_into(source: BinaryIO, buffer: memoryview) -> int:
    """Fill ``buffer``; less comes only at the end of ``source``."""
    readinto = cast("_Reads", source).readinto
    filled = 0
    while filled < len(buffer) and (count := readinto(buffer[filled:])):
        filled += count
    return filled


if TYPE_CHECKING:
    from typing import Protocol

    class _Reads(Protocol):
        def readinto(self, buffer: WriteableBuffer, /) -> int: ...


def _name(path: str) -> bytes:
    """Encode a path; the empty one is where the login leads."""
    return string((path or ".").encode("utf-8", "surrogateescape"))


def _decode(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _is_too_long(path: str) -> bool:
    encoded = path.encode("utf-8", "surrogateescape")
    return len(encoded) > LONGEST_PATH or max(map(len, encoded.split(b"/"))) > LONGEST_NAME


def _is_dir(attributes: Attributes) -> bool:
    return modes.S_ISDIR(attributes.permissions or 0)


def _no_directory(parent: str, path: str) -> FileExistsError:
    return FileExistsError(errno.EEXIST, f"{parent} exists and is not a directory.", path)


def _as_stat(attributes: Attributes) -> Stat:
    return Stat(
        is_dir=_is_dir(attributes),
        size=attributes.size,
        mtime=attributes.mtime,
        atime=attributes.atime,
    )
