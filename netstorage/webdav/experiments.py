"""Experiments on a server: what nobody can tell from its name, and a look would cost each time.

Each is done under names of its own, once for an endpoint. Behind a proxy a server does not show its
own name, and what it does depends on its settings, too.
"""

from __future__ import annotations

import logging
import posixpath
import secrets
from collections.abc import Callable

from .habits import Habits
from .http import DELETED, DONE, HTTP
from .looking import Looking
from .moving import Moving

logger = logging.getLogger("netstorage.webdav")


class Experiments:
    """Finds out the habits of a server."""

    def __init__(self, http: HTTP, looking: Looking, moving: Moving, habits: Habits) -> None:
        self._http = http
        self._looking = looking
        self._moving = moving
        self._habits = habits
        self._gave_up = False

    def keeps_names(self, directory: str) -> bool:
        """Tell whether a name with ``?`` or ``;`` can be a MOVE's target: WsgiDAV ends it there.

        An empty file is moved to such a name and back, where a cut leads to itself.
        """
        if self._habits.keeps_names is None:
            probe = temporary(directory)
            self._put_empty(probe)
            try:
                self._moving.move(probe, probe + "?;", overwrite=False)
                self._moving.move(probe + "?;", probe, overwrite=False)
            except (PermissionError, FileExistsError, FileNotFoundError):
                self._habits.keeps_names = False
            else:
                self._habits.keeps_names = True
            finally:
                self._http.request("DELETE", probe, {"Depth": "0"})
        return self._habits.keeps_names

    def lists_hidden(self, directory: str) -> bool:
        """Tell whether names that begin with a dot are listed, by a file put there: nginx does not.

        Its DELETE would take them along.
        """
        if self._habits.lists_hidden is None:
            probe = temporary(directory)
            self._put_empty(probe)
            try:
                names = [r.segments[-1:] for r in self._looking.propfind(directory, "1")]
                found = (posixpath.basename(probe),) in names
            finally:
                response = self._http.request("DELETE", probe, {"Depth": "0"})
            if response.status_code not in DELETED:
                raise self._http.refusal(response, directory)
            self._habits.lists_hidden = found
        return self._habits.lists_hidden

    def find_delete_spares(self, directory: str) -> None:
        """Find out what the DELETE that is meant for a file does to a collection."""
        if self._habits.delete_spares is None:
            found = self._in_scratch(directory, self._delete_spares)
            if found is not None:
                self._habits.delete_spares = found

    def _delete_spares(self, collection: str, file: str) -> bool:
        response = self._http.request("DELETE", collection, {"Depth": "0"})
        if response.status_code < 300 or not self._looking.is_taken(file):
            return False
        # The refusal counts only where the same request does remove a file.
        return self._http.request("DELETE", file, {"Depth": "0"}).status_code in DELETED

    def find_move_spares(self, directory: str) -> None:
        """Find out what a MOVE with Overwrite: T does to a collection."""
        if self._habits.move_spares is None:
            found = self._in_scratch(directory, self._move_spares)
            if found is not None:
                self._habits.move_spares = found

    def _move_spares(self, collection: str, file: str) -> bool:
        target, moved = temporary(collection), temporary(collection)
        self._make_collection(target)
        # The refusal counts only where a file can be moved, to a Destination that is understood.
        self._moving.move(file, moved, overwrite=False)
        try:
            self._moving.move(moved, target, overwrite=True)
        except IsADirectoryError:
            return not self._looking.stat(moved).is_dir
        return False

    def _in_scratch(self, directory: str, experiment: Callable[[str, str], bool]) -> bool | None:
        """Do an experiment on a collection of our own, with an empty file in it; remove both.

        Returns:
            What was found. None if the server would not have it (a full disk, no right to make
            collections): this session does not try again, the next one does.
        """
        if self._gave_up:
            return None
        collection = temporary(directory)
        file = temporary(collection)
        found: bool | None = None
        cleaned = False
        try:
            self._make_collection(collection)
            self._put_empty(file)
            found = experiment(collection, file)
        except (ConnectionError, TimeoutError):
            raise
        except OSError as error:
            logger.info("an experiment on %s was refused: %s", self._http.server, error)
            self._gave_up = True
        finally:
            cleaned = self._remove_scratch(collection)
        # Not to leave more of them behind, it is not done again.
        return found if cleaned else False

    def _make_collection(self, path: str) -> None:
        response = self._http.request("MKCOL", path, slash=True)
        if response.status_code not in DONE:
            raise self._http.refusal(response, path)

    def _put_empty(self, path: str) -> None:
        headers = {"Content-Type": "application/octet-stream", "Content-Length": "0"}
        response = self._http.request("PUT", path, headers)
        if response.status_code not in DONE:
            raise self._http.refusal(response, path)

    def _remove_scratch(self, collection: str) -> bool:
        """DELETE with all that is in it, and tell whether it is gone: nobody else has the name."""
        try:
            response = self._http.request("DELETE", collection, slash=True)
        except OSError as error:
            why: object = error
        else:
            if response.status_code in DELETED | {404, 410}:
                return True
            why = response.status_code
        logger.warning("could not remove the temporary collection %s: %s", collection, why)
        return False


def temporary(directory: str) -> str:
    """Return a hidden name that nobody uses."""
    return posixpath.join(directory, ".netstorage-" + secrets.token_hex(16))
