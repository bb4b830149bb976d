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
from .http import DELETED, DONE, HTTP, REFUSED
from .looking import Looking
from .moving import Moving

logger = logging.getLogger("netstorage.webdav")


class Experiments:
    """Finds out the habits of a server."""

    def __init__(
        self, http: HTTP, looking: Looking, moving: Moving, habits: Callable[[], Habits]
    ) -> None:
        self._http = http
        self._looking = looking
        self._moving = moving
        self._habits = habits
        self._gave_up = False

    def keeps_names(self, directory: str) -> bool:
        """Tell whether a name with ``?`` or ``;`` can be a MOVE's target: WsgiDAV ends it there.

        An empty file is moved to such a name and back, where a cut leads to itself.
        """
        known = self._habits()
        if known.keeps_names is None:
            probe = temporary(directory)
            self._put_empty(probe)
            try:
                self._moving.move(probe, probe + "?;", overwrite=False)
                self._moving.move(probe + "?;", probe, overwrite=False)
            except (PermissionError, FileExistsError, FileNotFoundError):
                known.keeps_names = False
            else:
                known.keeps_names = True
            finally:
                self._http.request("DELETE", probe, {"Depth": "0"})
        return known.keeps_names

    def lists_hidden(self, directory: str) -> bool:
        """Tell whether names that begin with a dot are listed, by a file put there: nginx does not.

        Its DELETE would take them along.
        """
        known = self._habits()
        if known.lists_hidden is None:
            probe = temporary(directory)
            self._put_empty(probe)
            try:
                listed = self._looking.propfind(directory, "1", details=False)
                found = any(r.segments[-1:] == (posixpath.basename(probe),) for r in listed)
            finally:
                response = self._http.request("DELETE", probe, {"Depth": "0"})
            if response.status_code not in DELETED:
                raise self._http.refusal(response, directory)
            known.lists_hidden = found
        return known.lists_hidden

    def find_delete_spares(self, directory: str) -> None:
        """Find out what the DELETE that is meant for a file does to a collection."""
        known = self._habits()
        if known.delete_spares is None:
            found = self._in_scratch(directory, self._delete_spares)
            if found is not None:
                known.delete_spares = found

    def _delete_spares(self, collection: str, file: str) -> bool | None:
        response = self._http.request("DELETE", collection, {"Depth": "0"})
        if response.status_code < 300:
            return False
        if response.status_code not in REFUSED:
            return None
        if not self._looking.is_taken(file):
            return False
        # The refusal counts only where the same request does remove a file.
        return self._http.request("DELETE", file, {"Depth": "0"}).status_code in DELETED

    def find_move_spares(self, directory: str) -> None:
        """Find out what a MOVE with Overwrite: T does to a collection."""
        known = self._habits()
        if known.move_spares is None:
            found = self._in_scratch(directory, self._move_spares)
            if found is not None:
                known.move_spares = found

    def _move_spares(self, collection: str, file: str) -> bool | None:
        target, moved = temporary(collection), temporary(collection)
        self._make_collection(target)
        # The refusal counts only where a file can be moved, to a Destination that is understood.
        self._moving.move(file, moved, overwrite=False)
        refused = self._moving.attempt(moved, target, overwrite=True)
        if refused is None or not self._looking.is_dir(target):
            return False
        if refused.status_code not in REFUSED:
            return None
        return not self._looking.stat(moved).is_dir

    def _in_scratch(
        self, directory: str, experiment: Callable[[str, str], bool | None]
    ) -> bool | None:
        """Do an experiment on a collection of our own, with an empty file in it; remove both.

        Returns:
            What was found. None if the server would not have it (a full disk, no right to make
            collections) or was busy: this session does not try again, the next one does. None, too,
            if another server took its place meanwhile.
        """
        if self._gave_up:
            return None
        known = self._habits()
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
        finally:
            # A server that answered until now may have had a connection break.
            cleaned = self._remove_scratch(collection, tries=1 if found is None else 2)
        self._gave_up = found is None
        if not cleaned:
            # Not to leave more of them behind, it is not done again.
            return False
        return found if self._habits() is known else None

    def _make_collection(self, path: str) -> None:
        response = self._http.request("MKCOL", path, slash=True)
        if response.status_code not in DONE:
            raise self._http.refusal(response, path)

    def _put_empty(self, path: str) -> None:
        headers = {"Content-Type": "application/octet-stream", "Content-Length": "0"}
        response = self._http.request("PUT", path, headers)
        if response.status_code not in DONE:
            raise self._http.refusal(response, path)

    def _remove_scratch(self, collection: str, tries: int) -> bool:
        """DELETE with all that is in it, and tell whether it is gone: nobody else has the name."""
        why: object = None
        while tries:
            tries -= 1
            try:
                response = self._http.request("DELETE", collection, slash=True)
            except OSError as error:
                why = error
                continue
            if response.status_code in DELETED | {404, 410}:
                return True
            # Where paths are long, Apache empties a collection and fails to remove it: once.
            tries = 1 if response.status_code == 207 and why != 207 else 0
            why = response.status_code
        logger.warning("could not remove the temporary collection %s: %s", collection, why)
        return False


def temporary(directory: str) -> str:
    """Return a hidden name that nobody uses."""
    return posixpath.join(directory, ".netstorage-" + secrets.token_hex(16))
