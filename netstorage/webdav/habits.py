"""What a server was found to do, kept for all sessions of its endpoint."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Habits:
    """What a server does where servers differ; None: nobody knows yet.

    The sessions of an endpoint share it without a lock: each finding is one assignment, and two
    sessions that find out at the same time find the same.

    Attributes:
        server: The ``Server`` header of the one that all this was learned from.
        destination: What stands before a path in a Destination that it understood.
        keeps_names: Whether it moves to the whole of a name with ``?`` or ``;``.
        lists_hidden: Whether it lists names that begin with a dot.
        delete_spares: Whether it refuses to delete a collection named without slash, Depth 0.
        move_spares: Whether it refuses to move a file onto a collection, with Overwrite: T.
        stores_whole: Whether a small upload was found whole. False for good, once one was not.
    """

    server: str = ""
    destination: str | None = None
    keeps_names: bool | None = None
    lists_hidden: bool | None = None
    delete_spares: bool | None = None
    move_spares: bool | None = None
    stores_whole: bool | None = None


class Notebook:
    """The habits of the server behind an endpoint."""

    def __init__(self) -> None:
        self._habits = Habits()

    def of(self, server: str) -> Habits:
        """Return what is known; nothing, if ``server`` names another than it was learned from."""
        habits = self._habits
        if habits.server != server:
            habits = self._habits = Habits(server)
        return habits
