"""The session's verbs, spoken in SFTP requests."""

from __future__ import annotations

import errno
import logging
import posixpath
import stat as modes
import struct
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO

from ..session import ENTRY, LONGEST_LISTING, Entry, Session, Sink, Stat, is_entry
from . import frames
from .frames import (
    Attributes,
    StatusError,
    decode_name,
    encode_mode,
    encode_path,
    encode_times,
    string,
)
from .transfer import IN_FLIGHT_REQUESTS, download, upload
from .verdicts import Verdicts, no_directory
from .wire import Wire

if TYPE_CHECKING:
    from paramiko import Transport

logger = logging.getLogger("netstorage.sftp")

PING_TIMEOUT = 3.0
"""Seconds that an idle session has for a sign of life."""
DIRECTORY_TRIES = 5
"""How often missing directories are made: others may be making or removing them meanwhile."""
RENAME_TRIES = 5
"""How often a file is renamed on servers where others that rename to its name may disturb it."""
# Servers whose RENAME and MKDIR refuse an existing name, as section 6.5 of the draft wants it.
# Go's server overwrites; of unknown ones nothing is assumed.
STRICT_SERVERS = ("OpenSSH", "mod_sftp", "AsyncSSH")
# Of these ProFTPD's looks first: of two clients that rename at once to one name, both may succeed.
RACING_SERVERS = ("mod_sftp",)
NOTHING = Attributes()


class SFTPSession(Session):
    """One SSH connection with one SFTP channel, whose requests are numbered: many can use it.

    Args:
        transport: The authenticated connection.
        wire: SFTP on its channel, started.
    """

    concurrency = 16

    def __init__(self, transport: Transport, wire: Wire) -> None:
        self._transport = transport
        self._wire = wire
        self._verdicts = Verdicts(wire)
        software = transport.remote_version.split("-", 2)[-1]
        self._strict = software.startswith(STRICT_SERVERS)
        self._renames_safely = self._strict and not software.startswith(RACING_SERVERS)
        self._links: bool | None = None

    # The connection

    def is_alive(self) -> bool:
        """Tell whether the connection stands, and the server kept to the protocol on it."""
        return self._transport.is_active() and self._wire.stream.usable

    def ping(self) -> None:
        """Ask for the attributes of the login directory; a refusal is a sign of life, too."""
        self._wire.stream.set_timeout(PING_TIMEOUT)
        self._verdicts.look("")
        self._wire.stream.set_timeout()

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def abandon(self) -> None:
        """Close this process's end of the socket, and nothing else."""
        self._transport.sock.close()
        channel = self._wire.stream.channel
        # Should it ever be collected, it must neither wait for a lock of the parent's nor speak.
        channel.lock = threading.Lock()
        channel.closed = True

    # Looking

    def stat(self, path: str, *, follow: bool = True) -> Stat:
        """Describe a file: one round trip."""
        return _as_stat(self._verdicts.attributes(path, follow=follow))

    def listdir(self, path: str, *, details: bool = False) -> Iterable[Entry]:
        """Read a directory; READDIRs go out twice as many at a time while names keep coming."""
        wire = self._wire
        try:
            handle = wire.handle(wire.request(frames.OPENDIR, encode_path(path)))
        except StatusError as error:
            raise self._verdicts.not_a_directory(path, error) from error
        entries: dict[str, Attributes] = {}
        length = 0
        in_flight = 2
        at_end = False
        failure: StatusError | None = None
        while not at_end and failure is None:
            known = len(entries)
            for request in [wire.request(frames.READDIR, string(handle)) for _ in range(in_flight)]:
                try:
                    names = wire.names(request)
                except StatusError as error:
                    failure = failure or error
                else:
                    at_end = at_end or not names
                    for name, attributes in names or ():
                        entries[decode_name(name)] = attributes
                        length += ENTRY + len(name)
                    if length > LONGEST_LISTING:
                        raise wire.stream.violation("lists names without end")
            if len(entries) == known and not at_end and failure is None:
                raise wire.stream.violation("lists the same names over and over")
            in_flight = min(in_flight * 2, IN_FLIGHT_REQUESTS)
        self._close(handle)
        if failure is not None:
            raise self._verdicts.not_a_directory(path, failure)
        named = {name: entries[name] for name in entries if is_entry(name)}
        return self._entries(path, named, details=details)

    def _entries(self, path: str, named: dict[str, Attributes], *, details: bool) -> list[Entry]:
        """Tell directories from files; links, and what has no type, are looked up in flight."""
        wire = self._wire
        links = {name for name, a in named.items() if modes.S_ISLNK(a.permissions or 0)}
        unknown = [name for name, a in named.items() if a.permissions is None or name in links]
        for start in range(0, len(unknown), IN_FLIGHT_REQUESTS):
            batch = unknown[start : start + IN_FLIGHT_REQUESTS]
            requests = [
                wire.request(frames.STAT, encode_path(posixpath.join(path, name))) for name in batch
            ]
            for name, request in zip(batch, requests, strict=True):
                try:
                    named[name] = wire.attributes(request)
                except StatusError:
                    # A link to nowhere, to itself, or to what we may not see: no directory.
                    named[name] = NOTHING
        return [
            Entry(
                name, a.is_dir, name in links, _as_stat(a) if details and a is not NOTHING else None
            )
            for name, a in named.items()
        ]

    # Reading

    def read(self, path: str, start: int, stop: int | None, sink: Sink) -> Stat:
        """Read a range with READs in flight: two round trips for what fits into one request."""
        wire = self._wire
        try:
            handle = wire.handle(
                wire.request(frames.OPEN, encode_path(path) + struct.pack(">II", frames.O_READ, 0))
            )
        except StatusError as error:
            raise self._verdicts.open_error(path, error) from error
        attributes, failure = download(wire, handle, start, stop, sink)
        self._close(handle)
        if attributes.is_dir:
            raise IsADirectoryError(errno.EISDIR, "is a directory", path)
        if isinstance(failure, StatusError):
            raise self._verdicts.error(failure, path) from failure
        if failure is not None:
            raise failure
        return _as_stat(attributes)

    # Writing

    def write(
        self,
        path: str,
        source: BinaryIO,
        size: int,
        mode: int | None,
        directory_mode: int | None,
        mtime: float | None = None,
    ) -> None:
        """Create a file: its data, mode, sync, time, size check and close go in one flight.

        Every answer is examined before this returns, so a rename may follow. It must not travel in
        the same flight: the server would run it even after a WRITE that failed.
        """
        self._require_plain(path)
        wire = self._wire
        made: list[str] = []
        try:
            handle = wire.handle(self._request_create(path, mode))
        except StatusError as error:
            refusal = self._verdicts.open_error(path, error, creating=True)
            if not isinstance(refusal, FileNotFoundError):
                raise refusal from error
            handle, made = self._create_with_directories(path, mode, directory_mode)
        chmods = {}
        if directory_mode is not None:
            # The server's umask took its part; as with FileSystemStorage, our mode prevails. Only
            # here, since the mode of a directory that was there is not ours to set.
            chmods = {
                x: wire.request(frames.SETSTAT, encode_path(x) + encode_mode(directory_mode))
                for x in made
            }
        writes, failure = upload(wire, handle, source, size)
        chmod = None
        if mode is not None and failure is None:
            chmod = wire.request(frames.FSETSTAT, string(handle) + encode_mode(mode))
        sync = None
        if "fsync@openssh.com" in wire.extensions and failure is None:
            sync = wire.request_extended("fsync@openssh.com", string(handle))
        touch = None
        if mtime is not None and 0 <= mtime < 2**32 and failure is None:
            # Behind all that changes it; what refuses gives the file the time of its upload.
            touch = wire.request(
                frames.FSETSTAT, string(handle) + encode_times(int(mtime), int(mtime))
            )
        fstat = wire.request(frames.FSTAT, string(handle))
        close = wire.request(frames.CLOSE, string(handle))

        directory_failures = {x: wire.failure_of(request) for x, request in chmods.items()}
        failure = wire.first_failure((*writes, sync), failure)
        mode_failure = wire.failure_of(chmod)
        wire.failure_of(touch)
        attributes: Attributes | None = None
        with suppress(StatusError):
            attributes = wire.attributes(fstat)
        # What a server could not write any more it may tell at the end only.
        failure = wire.first_failure((close,), failure)
        if isinstance(failure, StatusError):
            raise self._verdicts.write_error(failure, path) from failure
        if failure is not None:
            raise failure
        if attributes is None or attributes.size not in {size, None}:
            # Go's server may answer FSTAT before it has done the WRITEs that came first.
            attributes = self._verdicts.attributes(path, follow=False)
        if attributes.size not in {size, None}:
            raise OSError(
                errno.EIO,
                f"the server holds {attributes.size} of {size} bytes that were sent",
                path,
            )
        if mode_failure is not None and (
            mode is None or modes.S_IMODE(attributes.permissions or 0) != mode
        ):
            refusal = self._verdicts.error(mode_failure, path)
            refusal.strerror = (
                f"the server does not let the mode be set to {mode or 0:o} ({refusal.strerror}); "
                "set file_permissions_mode to what it gives, or FILE_UPLOAD_PERMISSIONS to None"
            )
            raise refusal
        for directory, unset in directory_failures.items():
            if unset is not None:
                raise self._verdicts.error(unset, directory)

    def _request_create(self, path: str, mode: int | None) -> int:
        flags = struct.pack(">I", frames.O_WRITE | frames.O_CREAT | frames.O_EXCL)
        # With the mode at once, a private file is never readable by others for a moment.
        return self._wire.request(frames.OPEN, encode_path(path) + flags + encode_mode(mode))

    def _create_with_directories(
        self, path: str, mode: int | None, directory_mode: int | None
    ) -> tuple[bytes, list[str]]:
        """Make the missing directories and the file in one flight: servers keep the order.

        Once more, if the file's directory is still missing: when several clients make one at the
        same time, rclone may lose sight of it for a moment.

        Returns:
            The file's handle, and the directories that were made.
        """
        wire = self._wire
        levels = [posixpath.dirname(path)]
        while (parent := posixpath.dirname(levels[0])) not in {"", "/", levels[0]}:
            levels.insert(0, parent)
        attributes = encode_mode(directory_mode)
        made: list[str] = []
        for _ in range(DIRECTORY_TRIES):
            # A lax server may say OK to a directory that was there.
            missing = [x for x in levels if self._strict or self._verdicts.look(x) is None]
            requests = {x: wire.request(frames.MKDIR, encode_path(x) + attributes) for x in missing}
            create = self._request_create(path, mode)
            failures = {x: wire.failure_of(request) for x, request in requests.items()}
            made += [x for x, failure in failures.items() if failure is None]
            try:
                return wire.handle(create), made
            except StatusError as error:
                self._require_directories(levels, failures)
                refusal = self._verdicts.open_error(path, error, creating=True)
                if not isinstance(refusal, FileNotFoundError):
                    raise refusal from error
        raise refusal

    def _require_directories(
        self, levels: list[str], failures: dict[str, StatusError | None]
    ) -> None:
        """Blame the first level that is no directory; somebody else's will do."""
        for level in levels:
            there = self._verdicts.look(level)
            if there is not None and not there.is_dir:
                raise no_directory(level, levels[-1])
            if there is None and (failure := failures.get(level)) is not None:
                # ProFTPD refuses a level that is just short enough, too: the whole is too long.
                raise self._verdicts.disk_error(failure, level) or self._verdicts.error(
                    failure, levels[-1]
                )

    # Naming

    def rename(self, source: str, target: str, *, is_dir: bool = False) -> None:
        """Rename without replacing.

        RENAME refuses an existing target on servers that keep to the draft (6.5); on others, and on
        ProFTPD, which looks and then renames, a hard link does, where they can; at the worst a look
        just before is all there is.
        """
        if not self._renames_safely:
            self._require_plain(target)
            # No server makes a hard link to a directory.
            if not is_dir and self._link(source, target):
                return

        def send() -> int:
            if not self._renames_safely:
                self._require_free(target)
            return self._wire.request(frames.RENAME, encode_path(source) + encode_path(target))

        for is_last in (False, True):
            refused = self._refused(source, send)
            if refused is None:
                return
            self._require_free(target, refused)
            # It may have been taken, and free again before the look.
            if is_last or refused.code != frames.FAILURE:
                raise self._verdicts.error(refused, target) from refused

    def _require_free(self, target: str, refused: StatusError | None = None) -> None:
        if self._verdicts.look(target, follow=False) is not None:
            raise FileExistsError(errno.EEXIST, "the name is taken", target) from refused

    def _refused(self, source: str, send: Callable[[], int]) -> StatusError | None:
        """Rename, and return what the server says against it.

        rclone first removes what has the name, even a file that another renamed a moment ago. Who
        finds nothing left to remove is refused, too, but may try again.

        Raises:
            FileNotFoundError: The file itself was removed so.
        """
        for _ in range(RENAME_TRIES):
            refused = self._wire.failure_of(send())
            vague = refused is not None and refused.code in {frames.FAILURE, frames.NO_SUCH_FILE}
            if self._strict or not vague:
                break
            if self._verdicts.look(source, follow=False) is None:
                raise FileNotFoundError(errno.ENOENT, "the file is gone", source) from refused
        return refused

    def _link(self, source: str, target: str) -> bool:
        """Try to rename by a hard link, which no server makes over another file.

        The link may be there from a session that was lost before the source was removed.
        """
        if not self._can_link(source):
            return False
        wire = self._wire
        names = encode_path(source) + encode_path(target)
        refused = wire.failure_of(wire.request_extended("hardlink@openssh.com", names))
        if refused is not None and not self._is_one_file(source, target):
            return False
        left = wire.failure_of(wire.request(frames.REMOVE, encode_path(source)))
        if left is not None:
            logger.warning("published %s, but %s stays beside it: %r", target, source, left.message)
        return True

    def _is_one_file(self, source: str, target: str) -> bool:
        """Tell whether both names are the same file's: a time that one sets, the other shows."""
        wire = self._wire
        here = self._verdicts.look(source, follow=False)
        there = self._verdicts.look(target, follow=False)
        if here is None or here != there or here.atime is None or here.mtime is None:
            return False
        path, mark = encode_path(source), here.mtime ^ 1
        shown = None
        for mtime in (mark, here.mtime):
            times = encode_times(here.atime, mtime)
            if wire.failure_of(wire.request(frames.SETSTAT, path + times)) is not None:
                return False
            shown = shown or self._verdicts.look(target, follow=False)
        return shown is not None and shown.mtime == mark

    def _can_link(self, source: str) -> bool:
        """Find out by an experiment whether links are made: rclone says OK and makes none.

        One may be there from a session that was lost in the experiment.
        """
        wire = self._wire
        if self._links is None:
            probe = f"{source}-link"
            names = encode_path(source) + encode_path(probe)
            links = "hardlink@openssh.com" in wire.extensions
            if links:
                wire.failure_of(wire.request_extended("hardlink@openssh.com", names))
                links = self._verdicts.look(probe, follow=False) is not None
            if links:
                self.remove(probe)
            # Not before: others that share the session go by it.
            self._links = links
        return self._links

    def replace(self, source: str, target: str) -> None:
        """Rename over what is there, atomically."""
        self._require_plain(target)
        wire = self._wire
        names = encode_path(source) + encode_path(target)
        atomic = "posix-rename@openssh.com" in wire.extensions

        def send() -> int:
            if atomic:
                return wire.request_extended("posix-rename@openssh.com", names)
            return wire.request(frames.RENAME, names)

        refused = self._refused(source, send)
        if refused is not None:
            there = self._verdicts.look(target, follow=False)
            if there is not None and there.is_dir:
                raise IsADirectoryError(errno.EISDIR, "is a directory", target) from refused
            if there is not None and not atomic:
                raise OSError(
                    errno.ENOTSUP,
                    "the server cannot replace a file atomically (it lacks the extension "
                    "posix-rename@openssh.com); delete the file first, or save under another name",
                    target,
                ) from refused
            raise self._verdicts.error(refused, target) from refused

    def remove(self, path: str) -> None:
        """Remove a file; if that does not work because it is a directory, an empty directory."""
        wire = self._wire
        try:
            wire.status(wire.request(frames.REMOVE, encode_path(path)))
        except StatusError as error:
            # OpenSSH says 4 for a directory on Linux, 3 on other systems.
            gone = error.code == frames.NO_SUCH_FILE
            if gone or not self._verdicts.attributes(path, follow=False).is_dir:
                raise self._verdicts.error(error, path) from error
        else:
            return
        try:
            wire.status(wire.request(frames.RMDIR, encode_path(path)))
        except StatusError as error:
            if error.code == frames.FAILURE and self._verdicts.look(path, follow=False) is not None:
                raise OSError(errno.ENOTEMPTY, "the directory is not empty", path) from error
            raise self._verdicts.error(error, path) from error

    def _require_plain(self, path: str) -> None:
        """Refuse names that rclone, and who knows who else, takes and does not find again."""
        if not self._strict and any(character < " " or character == "\x7f" for character in path):
            raise OSError(
                errno.EINVAL, "control characters in a name may not survive on this server", path
            )

    def _close(self, handle: bytes) -> None:
        """Close a handle that was only read from: its answer can tell nothing that matters."""
        self._wire.ignore(self._wire.request(frames.CLOSE, string(handle)))
        self._wire.flush()


def _as_stat(attributes: Attributes) -> Stat:
    return Stat(
        is_dir=attributes.is_dir,
        size=attributes.size,
        mtime=attributes.mtime,
        atime=attributes.atime,
        is_special=attributes.is_special,
    )
