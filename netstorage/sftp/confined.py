"""A session that symbolic links do not lead astray: the option confine_links."""

from __future__ import annotations

import errno
import posixpath
from collections.abc import Iterable
from dataclasses import replace
from itertools import accumulate
from typing import BinaryIO

from ..session import Entry, Sink, Stat
from . import frames
from .frames import StatusError, encode_path
from .session import SFTPSession
from .transfer import IN_FLIGHT_REQUESTS

_Real = bytes | StatusError | None
"""Where a path really leads, why the server does not tell, or None: nothing is there."""


class ConfinedSession(SFTPSession):
    """Another session's connection, on which no verb leaves ``root`` by a link.

    Each verb asks first where its path really leads (section 6.11): one round trip more. SFTP
    cannot ask and act in one step, so a link that is put there in between is followed.

    Args:
        session: The session whose connection is used.
        root: The storage's location. It may itself be a link: it is the operator's choice.
    """

    def __init__(self, session: SFTPSession, root: str) -> None:
        super().__init__(session._transport, session._wire)
        self._root = root

    def stat(self, path: str, *, follow: bool = True) -> Stat:
        """Describe a file that lies inside, or with ``follow=False`` a link that does."""
        self._require_inside(path, follow=follow)
        return super().stat(path, follow=follow)

    def listdir(self, path: str, *, details: bool = False) -> Iterable[Entry]:
        """Read a directory; a link that leads outside is not told as the directory it may be.

        Nor does any link tell of what it leads to.
        """
        self._require_inside(path)
        entries = {
            entry.name: replace(entry, stat=None) if entry.is_link else entry
            for entry in super().listdir(path, details=details)
        }
        links = [name for name, entry in entries.items() if entry.is_link and entry.is_dir]
        if links:
            root, *reals = self._resolve([self._root, *(posixpath.join(path, x) for x in links)])
            for name, real in zip(links, reals, strict=True):
                entries[name] = replace(entries[name], is_dir=_is_inside(real, root))
        return entries.values()

    def read(self, path: str, start: int, stop: int | None, sink: Sink) -> Stat:
        """Read a range of a file that lies inside."""
        self._require_inside(path)
        return super().read(path, start, stop, sink)

    def write(
        self,
        path: str,
        source: BinaryIO,
        size: int,
        mode: int | None,
        directory_mode: int | None,
        mtime: float | None = None,
    ) -> None:
        """Create a file in a directory that lies inside."""
        self._require_inside(path, follow=False)
        super().write(path, source, size, mode, directory_mode, mtime)

    def rename(self, source: str, target: str, *, is_dir: bool = False) -> None:
        """Rename within the root, without replacing."""
        self._require_inside(target, follow=False)
        self._require_beside(source, target)
        super().rename(source, target, is_dir=is_dir)

    def replace(self, source: str, target: str) -> None:
        """Rename within the root, over what is there, unless that is a link that leads out.

        Most servers would replace such a link; ProFTPD writes to where it leads.
        """
        self._require_inside(target)
        self._require_beside(source, target)
        super().replace(source, target)

    def remove(self, path: str) -> None:
        """Remove what lies inside; of a link, the link."""
        self._require_inside(path, follow=False)
        super().remove(path)

    def _require_inside(self, path: str, *, follow: bool = True) -> None:
        """Refuse a path on which a link leads outside; with ``follow=False`` the last may be one.

        Every level is asked for: where the last ones are missing, those above must not lead out.
        """
        end = path if follow or path == self._root else posixpath.dirname(path)
        steps = [step for step in end[len(self._root) :].split("/") if step]
        levels = list(accumulate(steps, posixpath.join, initial=self._root))
        reals = self._resolve(levels)
        for level, real in zip(levels, reals, strict=True):
            if real is None:
                return  # nothing is there, nor below it
            if isinstance(real, StatusError):
                raise self._verdicts.error(real, level) from real
            if not _is_inside(real, reals[0]):
                message = "a symbolic link leads out of the storage's location (confine_links)"
                raise PermissionError(errno.EACCES, message, level)

    def _require_beside(self, source: str, target: str) -> None:
        """Refuse a source whose directory leads outside; the target's was looked at."""
        if posixpath.dirname(source) != posixpath.dirname(target):
            self._require_inside(source, follow=False)

    def _resolve(self, paths: list[str]) -> list[_Real]:
        """Ask where paths really lead, in one round trip (for 32 of them)."""
        if not self._strict:
            raise OSError(
                errno.ENOTSUP,
                "the server is not known to follow links when it is asked where a path leads, so "
                "the option confine_links cannot be kept on it",
            )
        wire = self._wire
        found: list[_Real] = []
        for start in range(0, len(paths), IN_FLIGHT_REQUESTS // 2):
            asked = [
                [wire.request(kind, encode_path(path)) for kind in (frames.REALPATH, frames.LSTAT)]
                for path in paths[start : start + IN_FLIGHT_REQUESTS // 2]
            ]
            found += [self._real(*requests) for requests in asked]
        return found

    def _real(self, realpath: int, lstat: int) -> _Real:
        wire = self._wire
        real: _Real
        try:
            names = wire.names(realpath)
        except StatusError as error:
            real = error
        else:
            if not names:
                raise wire.stream.violation("did not say where a path leads")
            real = names[0][0]
        try:
            wire.attributes(lstat)
        except StatusError:
            # OpenSSH says "no such file", too, where it gives up on a long chain of links.
            if isinstance(real, StatusError) and real.code == frames.NO_SUCH_FILE:
                return None
        return real


def _is_inside(real: _Real, root: _Real) -> bool:
    return (
        isinstance(real, bytes)
        and isinstance(root, bytes)
        and (real + b"/").startswith(root.rstrip(b"/") + b"/")
    )
