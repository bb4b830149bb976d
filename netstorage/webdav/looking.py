"""Asking what is there: PROPFIND (RFC 4918, 9.1), or HEAD where a server does not know it."""

from __future__ import annotations

import errno

import httpx

from ..exceptions import ProtocolError
from ..session import Stat
from .http import ERRNO, HTTP, leads_to_slash
from .multistatus import (
    ONLY_TYPE,
    PROPERTIES,
    MultistatusError,
    Resource,
    bare_etag,
    http_date,
    length,
    parse_multistatus,
)


class Looking:
    """Describes files and collections, and changes nothing."""

    def __init__(self, http: HTTP) -> None:
        self._http = http

    def stat(self, path: str) -> Stat:
        """Describe a file or collection: one request."""
        if not self._http.can_propfind:
            return self._head(path)
        return itself(self.propfind(path, "0"), path).stat

    def is_taken(self, path: str) -> bool:
        """Tell whether something has this name."""
        try:
            self.stat(path)
        except FileNotFoundError:
            return False
        return True

    def is_dir(self, path: str) -> bool:
        """Tell whether a collection has this name."""
        try:
            return self.stat(path).is_dir
        except FileNotFoundError:
            return False

    def require_directory(self, path: str) -> None:
        """Raise FileNotFoundError if nothing has this name, FileExistsError if a file has."""
        if not self.stat(path).is_dir:
            raise FileExistsError(errno.EEXIST, f"{path} exists and is not a directory.", path)

    def require_missing_or_file(self, path: str) -> None:
        """Raise IsADirectoryError if a collection has this name."""
        if self.is_dir(path):
            raise IsADirectoryError(errno.EISDIR, "is a collection", path)

    def propfind(
        self, path: str, depth: str, *, slash: bool = False, details: bool = True
    ) -> list[Resource]:
        """Describe a collection, and with Depth 1 what lies in it; or tell only what is one."""
        response, resources = self.ask(path, depth, slash=slash, details=details)
        if response.status_code == 207:
            return resources
        if not slash and leads_to_slash(response):
            try:
                return self.propfind(path, depth, slash=True, details=details)
            except OSError as error:
                if depth != "0" or error.errno != errno.ENOTSUP:
                    raise
                # Apache asks an index.html in the place of the collection that holds it.
                return [Resource((), Stat(is_dir=True), None)]
        if response.status_code in {400, 403}:
            self.raise_if_below_a_file(path)
        raise self._http.refusal(response, path)

    def ask(
        self, path: str, depth: str, *, slash: bool, details: bool = True
    ) -> tuple[httpx.Response, list[Resource]]:
        """Send PROPFIND, and read its answer if it is a multistatus.

        A broken one is asked for once more: Go's server breaks off with "Internal Server Error" in
        the middle if something that it lists was begun or vanished meanwhile.
        """
        # lighttpd refuses a body without a type.
        headers = {"Depth": depth, "Content-Type": "application/xml; charset=utf-8"}
        content = PROPERTIES if details else ONLY_TYPE
        broken: MultistatusError | None = None
        for _ in range(2):
            with self._http.stream(
                "PROPFIND", path, headers, slash=slash, content=content
            ) as response:
                if response.status_code != 207:
                    return response, []
                # Raw: a few encoded bytes may stand for any number. Apache's AddEncoding calls the
                # answer about a file encoded, too, and that is plain XML.
                try:
                    return response, parse_multistatus(response.iter_raw())
                except MultistatusError as error:
                    if is_encoded(response):
                        raise ProtocolError(
                            f"{self._http.server} encoded an answer though asked not to"
                        ) from error
                    broken = error
        raise ProtocolError(
            f"{self._http.server} broke the WebDAV protocol: its answer to PROPFIND is {broken}"
        ) from broken

    def raise_if_below_a_file(self, path: str) -> None:
        """Say that nothing is there where Apache and lighttpd say 400 and 403: below a file.

        From the top, so that many parts below a file make no more requests than one.
        """
        for parent in (path[:end] for end, char in enumerate(path) if char == "/"):
            response, resources = self.ask(parent, "0", slash=False)
            if response.status_code == 404:
                raise FileNotFoundError(errno.ENOENT, f"there is no {parent}", path)
            if response.status_code == 207 and not itself(resources, parent).stat.is_dir:
                raise FileNotFoundError(errno.ENOENT, f"{parent} is a file", path)

    def _head(self, path: str) -> Stat:
        response = self._http.request("HEAD", path)
        if leads_to_slash(response):
            return Stat(is_dir=True)
        if response.status_code != 200:
            raise self._http.refusal(response, path)
        # Without Content-Length the length is not 0 but unknown.
        return stat_of(response, length(response.headers.get("content-length")))


def itself(resources: list[Resource], path: str) -> Resource:
    """Return what was asked for; what else was listed lies below it, and may come before it.

    Raises:
        OSError: It has a status in place of properties.
    """
    found = min(resources, key=lambda resource: len(resource.segments), default=None)
    if found is None or found.status in {404, 410}:
        raise FileNotFoundError(errno.ENOENT, "no such file or collection", path)
    if found.status is not None and found.status >= 300:
        number = ERRNO.get(found.status, errno.EIO)
        raise OSError(number, f"the server says {found.status} of it", path)
    return found


def is_encoded(response: httpx.Response) -> bool:
    """Tell whether a server calls a body encoded, or a file that it describes."""
    return bool(response.headers.get("content-encoding", "identity") != "identity")


def stat_of(response: httpx.Response, size: int | None) -> Stat:
    """Describe a file by the headers of an answer."""
    headers = response.headers
    return Stat(
        size=size,
        mtime=http_date(headers.get("last-modified")),
        etag=bare_etag(headers.get("etag")),
    )
