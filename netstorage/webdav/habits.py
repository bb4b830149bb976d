"""What a server was found to do, kept for all sessions of its endpoint."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

LIFETIME = 3600.0
"""Seconds after which all is found out anew: behind a proxy a server changes without a sign."""


@dataclass
class Habits:
    """What a server does where servers differ; None: nobody knows yet.

    The sessions of an endpoint share it without a lock: each finding is one assignment. What
    uploads show may differ from one to the next, so it is two flags that are only ever set: no
    session that is still content takes back the distrust of another.

    Attributes:
        server: The ``Server`` header of the one that all this was learned from.
        destination: What stands before a path in a Destination that it understood.
        keeps_names: Whether it moves to the whole of a name with ``?`` or ``;``.
        lists_hidden: Whether it lists names that begin with a dot.
        delete_spares: Whether it refuses to delete a collection named without slash, Depth 0.
        move_spares: Whether it refuses to move a file onto a collection, with Overwrite: T.
        stored_whole: Whether an upload was found whole.
        stored_less: Whether one was not: then all are looked at.
    """

    server: str = ""
    destination: str | None = None
    keeps_names: bool | None = None
    lists_hidden: bool | None = None
    delete_spares: bool | None = None
    move_spares: bool | None = None
    stored_whole: bool = False
    stored_less: bool = False


class Notebook:
    """The habits of the server behind an endpoint.

    Args:
        clock: Seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._page = (Habits(), clock())

    def of(self, server: str) -> Habits:
        """Return what is known; nothing, if it is of another ``Server`` header, or too old.

        To be asked at each use: both change while a session lives.
        """
        habits, since = self._page
        now = self._clock()
        if habits.server != server or now - since > LIFETIME:
            habits = Habits(server)
            self._page = (habits, now)
        return habits
