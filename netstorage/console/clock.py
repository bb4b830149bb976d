"""What the times of files at the target tell: whether copies keep theirs, and by whose clock."""

from __future__ import annotations

import errno
import posixpath
import time
from dataclasses import dataclass
from threading import Event, Lock

from django.core.files.base import ContentFile

from ..storage import hidden_name
from .content import Content
from .place import Place

THEN = 1_234_567_891
"""A time long ago; its odd second does not survive on disks that keep every other one."""


@dataclass(frozen=True)
class _Times:
    """What was found out about the times of a storage's files.

    Attributes:
        apart: By how many seconds a copy may miss its original's time; None: it does not keep it.
        ahead_least: By how many seconds its clock is ahead of ours, at the least.
        ahead_most: The same, at the most.
    """

    apart: int | None
    ahead_least: float
    ahead_most: float


class Clock:
    """What the times of a target's files tell of those in the source.

    Where a copy can be given the time of its original, equal files have equal times. Elsewhere a
    copy is as old as its upload, by a clock that need not agree with this machine's: there an
    original that is not younger than its copy was not changed since.
    """

    def __init__(self, target: Place) -> None:
        self._target = target
        self._lock = Lock()
        self._known: _Times | None = None
        self._refused: set[str] = set()

    def same(self, path: str, mine: float | None, its: float | None) -> bool:
        """Tell whether an original and its copy can be taken to be equal; None: no time is told."""
        if mine is None or its is None:
            return True
        known = self._times(path)
        if known.apart is None:
            return mine <= its - known.ahead_most
        return abs(int(mine) - int(its)) <= known.apart

    def newer(self, path: str, mine: float | None, its: float | None) -> bool:
        """Tell whether the target's file was modified after the source's."""
        if mine is None or its is None:
            return False
        known = self._times(path)
        is_kept = known.apart is not None and abs(int(mine) - int(its)) <= known.apart
        return mine < its - known.ahead_least and not is_kept

    def _times(self, path: str) -> _Times:
        """Try it out beside a file, until one of the directories lets us."""
        directory = posixpath.dirname(path)
        with self._lock:
            if self._known is None and directory not in self._refused:
                try:
                    self._known = self._probe(self._target.below(directory))
                except OSError as error:
                    if not isinstance(error, PermissionError) and error.errno != errno.EROFS:
                        raise
                    self._refused.add(directory)
            # Nothing can be copied there: what has the same second, or is older, is the same.
            return self._known or _Times(None, 0, -1)

    def _probe(self, directory: Place) -> _Times:
        file = directory / hidden_name()

        def written(mtime: float | None, *, force: bool) -> float | None:
            content = Content(ContentFile(b"?"), lambda count: None, Event())
            file.write(content, force=force, mtime=mtime)
            return file.stat().mtime

        before = time.time()
        now = written(None, force=False)
        try:
            after = time.time()
            kept = written(THEN, force=True)
        finally:
            file.delete()
        apart = None if kept is None or abs(kept - THEN) > 1 else int(abs(kept - THEN))
        if now is None:
            return _Times(apart, 0, 0)
        # Times may be cut to a second.
        return _Times(apart, int(now) - after, int(now) + 1 - before)
