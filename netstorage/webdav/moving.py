"""MOVE (RFC 4918, 9.9), and the Destination that a server understands."""

from __future__ import annotations

import errno
from collections.abc import Callable

import httpx

from .habits import Habits
from .http import DONE, HTTP, quote_path
from .looking import Looking
from .multistatus import segments


class Moving:
    """Gives files other names.

    Args:
        http: The connection.
        looking: Tells what happened when the answer does not.
        habits: Tells what is known of the server; the Destination that it understands is added.
        called: The segments of the root's path in the server's own answers, where it gave any.
    """

    def __init__(
        self,
        http: HTTP,
        looking: Looking,
        habits: Callable[[], Habits],
        called: tuple[str, ...] | None,
    ) -> None:
        self._http = http
        self._looking = looking
        self._habits = habits
        self._bases = _possible_destinations(http.url, called)

    def move(self, source: str, target: str, *, overwrite: bool, is_dir: bool = False) -> None:
        """MOVE a file, or a collection: its URLs end with a slash, or Apache sends us there.

        Raises:
            FileExistsError: The name is taken, and is not to be overwritten.
            IsADirectoryError: It is to be overwritten, and is a collection's; see
                Habits.move_spares.
        """
        refused = self.attempt(source, target, overwrite=overwrite, is_dir=is_dir)
        if refused is None:
            return
        if overwrite:
            self._looking.require_missing_or_file(target)
        elif refused.status_code == 412 or self._looking.is_taken(target):
            raise FileExistsError(errno.EEXIST, "the name is taken", target)
        # Perhaps a proxy's settings have changed: the next one tries them all again.
        self._habits().destination = None
        raise self._http.refusal(refused, target)

    def attempt(
        self, source: str, target: str, *, overwrite: bool, is_dir: bool = False
    ) -> httpx.Response | None:
        """MOVE it, and return the answer that refused it; None if it was moved."""
        refused: httpx.Response | None = None
        known = self._habits().destination
        for base in self._bases if known is None else [known]:
            destination = base + quote_path(target) + "/" * is_dir
            headers = {"Destination": destination, "Overwrite": "T" if overwrite else "F"}
            response = self._http.request("MOVE", source, headers, slash=is_dir)
            if response.status_code in DONE:
                # What a server understands it will understand again.
                self._habits().destination = base
                return None
            if refused is None or refused.status_code == 502:
                # 502 speaks of the base alone.
                refused = response
            if response.status_code not in {400, 403, 404, 409, 412, 500, 502}:
                break
            # Look before deciding what happened: the answer may be one to a repeated request.
            try:
                self._looking.stat(source)
            except FileNotFoundError:
                self._looking.stat(target)
                self._habits().destination = base
                return None
            if response.status_code == 412:
                break
        return refused


def _possible_destinations(url: httpx.URL, called: tuple[str, ...] | None) -> list[str]:
    """Return what may precede a path in a Destination, in the order to try.

    The URL is what RFC 4918 (10.3) wants. Behind a proxy that ends TLS, or changes the prefix, the
    server knows itself by another: then the path alone, or the other scheme, is understood.
    """
    authority = url.netloc.decode("ascii")
    other = "http" if url.scheme == "https" else "https"
    root = segments(url.raw_path.decode("ascii").partition("?")[0])
    bases = []
    for prefix in dict.fromkeys([root if called is None else called, root]):
        path = "/" + "".join(quote_path(segment) + "/" for segment in prefix)
        bases += [
            f"{url.scheme}://{authority}{path}",
            path,
            f"{other}://{authority}{path}",
        ]
    return bases
