"""The session's verbs, spoken in HTTP requests: RFC 4918 (WebDAV) and RFC 9110 (HTTP)."""

from __future__ import annotations

import errno
import posixpath
import re
from collections.abc import Iterable
from typing import BinaryIO

import httpx
from webdav4.client import Client

from ..exceptions import ConnectionLost, ProtocolError
from ..session import Entry, Session, Sink, Stat, is_entry
from .experiments import Experiments, temporary
from .habits import Habits, Notebook
from .http import DELETED, DONE, HTTP, Body, leads_to_slash
from .looking import Looking, is_encoded, itself, stat_of
from .moving import Moving
from .multistatus import length

LOOK_FIRST = 2**20
"""Bytes from which on asking for the directory costs less than sending the body in vain."""

CUTTING = frozenset("?;")
CONTROL = frozenset(map(chr, [*range(32), 127]))


class WebDAVSession(Session):
    """One HTTP connection to a WebDAV server.

    The connection behind it may be renewed by the HTTP client at any time; what the session adds is
    that it proved to be a WebDAV server's, and what it learned of that server.

    Args:
        client: The client; its base URL's path is quoted once more than the URL's (see endpoint).
        url: URL of the server's root, with a slash at the end.
        server: The server's name, for messages.
        timeout: Seconds of silence after which the server is given up, for messages.
        notebook: What other sessions learned of the server.
    """

    def __init__(
        self, client: Client, url: httpx.URL, server: str, timeout: float, notebook: Notebook
    ) -> None:
        self._http = HTTP(client, url, server, timeout)
        self._looking = Looking(self._http)
        self._url = url
        self._server = server
        self._notebook = notebook
        self._meet(None)

    # The connection

    def start(self) -> None:
        """Ask for the root: whether it is there, whether we may, whether this is WebDAV.

        Raises:
            OSError: It is not, or we may not.
        """
        called: tuple[str, ...] | None = None
        response, resources = self._looking.ask("", "0", slash=True)
        if response.status_code == 207:
            root = itself(resources, "")
            if not root.stat.is_dir:
                raise NotADirectoryError(errno.ENOTDIR, "is a file", "")
            called = root.segments
        elif response.status_code in {405, 501}:
            # nginx without its dav_ext module: all but listings works. Or Apache's root holds an
            # index.html, which is then asked in its place; a missing name tells them apart.
            response, _ = self._looking.ask(temporary(""), "0", slash=False)
            self._http.can_propfind = response.status_code not in {405, 501}
            if not self._http.can_propfind:
                there = self._http.request("HEAD", "")
                if there.status_code in {404, 410}:
                    raise self._http.refusal(there, "")
        else:
            raise self._http.refusal(response, "")
        self._meet(called)

    def _meet(self, called: tuple[str, ...] | None) -> None:
        self._moving = Moving(self._http, self._looking, self._habits, called)
        self._experiments = Experiments(self._http, self._looking, self._moving, self._habits)

    def _habits(self) -> Habits:
        """Return what is known now of the server that answered last: it may have been exchanged."""
        return self._notebook.of(self._http.software)

    def is_alive(self) -> bool:
        """Tell whether the session was not closed: the HTTP client renews lost connections."""
        return not self._http.closed

    def ping(self) -> None:
        """Do nothing: a connection that idled for long is not used again by the HTTP client."""

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def abandon(self) -> None:
        """Close this process's end of the connection, and nothing else."""
        self._http.abandon()

    # Looking

    def stat(self, path: str, *, follow: bool = True) -> Stat:
        """Describe a file or collection: one request. WebDAV knows no links."""
        return self._looking.stat(path)

    def listdir(self, path: str, *, details: bool = False) -> Iterable[Entry]:
        """Read a collection: one request."""
        if not self._http.can_propfind:
            raise OSError(
                errno.ENOTSUP,
                "the server does not answer PROPFIND, so it cannot list (nginx: its dav_ext module "
                "adds it)",
                path,
            )
        try:
            resources = self._looking.propfind(path, "1", slash=True, details=details)
        except OSError as error:
            # Apache says 400 and lighttpd 403 to a slash behind a file's name.
            if error.errno not in {errno.EINVAL, errno.EACCES} or self.stat(path).is_dir:
                raise
            raise NotADirectoryError(errno.ENOTDIR, "is not a collection", path) from error
        # A proxy may have changed the prefix: the collection itself is what all others lie below.
        here = itself(resources, path).segments
        entries = []
        for resource in resources:
            if resource.status in {404, 410}:
                continue
            *parent, name = resource.segments or ("",)
            stat = resource.stat
            if tuple(parent) == here and is_entry(name):
                # One with a status of its own has no properties beside it.
                told = stat if details and resource.status is None else None
                entries.append(Entry(name, stat.is_dir, stat=told))
            elif resource.segments == here and not stat.is_dir:
                raise NotADirectoryError(errno.ENOTDIR, "is not a collection", path)
        return entries

    # Reading

    def read(self, path: str, start: int, stop: int | None, sink: Sink) -> Stat:
        """GET a range: one request; three if the server calls the file's own bytes encoded."""
        if stop is not None and stop <= start:
            return self.stat(path)
        headers = {}
        if start or stop is not None:
            headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        stored: Stat | None = None
        while True:
            with self._http.stream("GET", path, headers) as response:
                if response.status_code not in {200, 206}:
                    break
                if self._is_own(response, stored):
                    return self._receive(response, start, stop, sink)
            if stored is not None or not self._http.can_propfind:
                raise ProtocolError(f"{self._server} encoded a file though asked not to")
            stored = self.stat(path)
        if response.status_code == 416:
            return stat_of(response, self._content_range(response)[1])
        if leads_to_slash(response):
            raise IsADirectoryError(errno.EISDIR, "is a collection", path)
        # sabre/dav says 501 to a collection.
        if response.status_code in {400, 403, 405, 501} and self._http.can_propfind:
            if self.stat(path).is_dir:
                raise IsADirectoryError(errno.EISDIR, "is a collection", path)
            self._looking.raise_if_below_a_file(path)
        raise self._http.refusal(response, path)

    def _is_own(self, response: httpx.Response, stored: Stat | None) -> bool:
        """Tell whether a body is the file's own bytes, which Apache's AddEncoding may call encoded.

        What is encoded on its way has another ETag than what is stored (RFC 9110, 8.8.3.3).
        """
        if not is_encoded(response):
            return True
        sent = stat_of(response, self._extent(response)[1])
        told = sent.etag is not None and sent.size is not None
        return told and stored is not None and stored.same_version(sent)

    def _extent(self, response: httpx.Response) -> tuple[int, int | None]:
        """Tell where a body starts, and the whole's length."""
        if response.status_code == 206:
            return self._content_range(response)
        return 0, length(response.headers.get("content-length"))

    def _receive(self, response: httpx.Response, start: int, stop: int | None, sink: Sink) -> Stat:
        """Give the body of a 200 or 206 to ``sink``, and see that it is what was asked for."""
        first, total = self._extent(response)
        if response.status_code == 200:
            # Such a server ignores ranges: this is the whole, not the range.
            stop = None
        elif first != start:
            raise ProtocolError(f"{self._server} answered another range than asked for")
        offset = first
        for chunk in response.iter_raw():
            sink(offset, memoryview(chunk))
            offset += len(chunk)
            if stop is not None and offset > stop:
                break  # no more was asked for, however long the server goes on
        if total is not None and offset < (total if stop is None else min(stop, total)):
            raise ConnectionLost(f"{self._server} sent only {offset - first} bytes of its answer")
        return stat_of(response, offset if total is None and stop is None else total)

    def _content_range(self, response: httpx.Response) -> tuple[int, int | None]:
        """Read Content-Range (RFC 9110, 14.4): where it starts and the whole's length."""
        text = response.headers.get("content-range", "")
        match = re.fullmatch(r"bytes (?:(\d{1,18})-\d{1,18}|\*)/(\d{1,18}|\*)", text)
        if match is None:
            if response.status_code == 416:
                return 0, None
            raise ProtocolError(f"{self._server} sent a part without saying which: {text[:80]!r}")
        return int(match[1] or 0), length(match[2])

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
        """PUT with Content-Length, and compare the length that the server has.

        HTTP frames the body, and a server that cannot store it says so; yet some gateways dropped
        it and said 201. So each server's word is doubted until an upload was found whole. A small
        one is believed then, if nothing about it was unusual; a large one never. HTTP has no way
        to set a file's time.
        """
        try:
            self._put(path, source, size)
        except FileNotFoundError:
            self.makedirs(posixpath.dirname(path))
            self._put(path, source, size)

    def _put(self, path: str, source: BinaryIO, size: int) -> None:
        refuse_control_characters(path)
        parent = posixpath.dirname(path)
        if size > LOOK_FIRST and parent:
            self._looking.require_directory(parent)
        body = Body(source, size)
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        response = self._http.request("PUT", path, headers, content=body)
        # 400, 403, 404, 409 and 500 stand for a missing directory, and for other things.
        if response.status_code in {400, 403, 404, 409, 500} and parent:
            self._looking.require_directory(parent)
            if size <= LOOK_FIRST:
                # Somebody else may have made it meanwhile.
                response = self._http.request("PUT", path, headers, content=body)
        if response.status_code not in DONE:
            raise self._http.refusal(response, path)
        habits = self._habits()
        proven = habits.stored_whole and not habits.stored_less
        usual = response.status_code != 200 and body.sent == 1
        if size > LOOK_FIRST or not (proven and usual):
            self._require_whole(path, size)

    def _require_whole(self, path: str, size: int) -> None:
        there = self.stat(path).size
        if there not in {size, None}:
            self._habits().stored_less = True
            raise OSError(
                errno.EIO, f"the server holds {there} of {size} bytes that were sent", path
            )
        if there:
            self._habits().stored_whole = True

    def makedirs(self, path: str) -> None:
        """MKCOL, and what is missing above it first."""
        if not path:
            return
        response = self._http.request("MKCOL", path, slash=True)
        # What is there already answers 405, on some servers 301; Go's says 201 to both, and 405
        # whatever went wrong.
        if response.status_code in DONE:
            return
        if response.status_code not in {301, 400, 403, 404, 405, 409, 500}:
            raise self._http.refusal(response, path)
        try:
            self._looking.require_directory(path)
        except FileNotFoundError as error:
            parent = posixpath.dirname(path)
            if not parent:
                raise self._http.refusal(response, path) from error
        else:
            return
        self.makedirs(parent)
        again = self._http.request("MKCOL", path, slash=True)
        if again.status_code in DONE:
            return
        try:
            self._looking.require_directory(path)
        except FileNotFoundError as error:
            raise self._http.refusal(again, path) from error

    # Naming

    def rename(self, source: str, target: str, *, is_dir: bool = False) -> None:
        """MOVE without overwriting: one request."""
        self._require_good_name(target)
        self._moving.move(source, target, overwrite=False, is_dir=is_dir)

    def replace(self, source: str, target: str) -> None:
        """MOVE over what is there: one request where the server keeps collections from that.

        Elsewhere a look goes first: lighttpd moves into a collection, others destroy it.
        """
        self._require_good_name(target)
        if not self._habits().move_spares:
            self._looking.require_missing_or_file(target)
            self._experiments.find_move_spares(posixpath.dirname(target))
        self._moving.move(source, target, overwrite=True)

    def _require_good_name(self, target: str) -> None:
        """Refuse a name that the server would mangle or cut."""
        refuse_control_characters(target)
        if CUTTING & {*target, *self._url.path}:
            directory = posixpath.dirname(target)
            while CUTTING & set(directory):
                directory = posixpath.dirname(directory)
            if not self._experiments.keeps_names(directory):
                raise OSError(
                    errno.EINVAL, "the server would cut the name at '?' or ';': use another", target
                )

    # Removing

    def remove(self, path: str) -> None:
        """DELETE a file or an empty collection: a file in one request, where that is safe.

        DELETE is recursive (RFC 4918, 9.6.1), and servers differ in what holds it back. Most refuse
        one without a slash and with Depth 0 if it meets a collection; for others a look goes first.
        """
        refused: httpx.Response | None = None
        if self._habits().delete_spares and path:
            refused = self._http.request("DELETE", path, {"Depth": "0"})
            if refused.status_code in DELETED:
                return
            if refused.status_code in {404, 410}:
                raise self._http.refusal(refused, path)
        is_dir = self._is_empty_collection(path)
        if not is_dir:
            if refused is not None:
                raise self._http.refusal(refused, path)
            self._experiments.find_delete_spares(posixpath.dirname(path))
        headers = {} if is_dir else {"Depth": "0"}
        response = self._http.request("DELETE", path, headers, slash=is_dir)
        if response.status_code not in DELETED:
            raise self._http.refusal(response, path)

    def _is_empty_collection(self, path: str) -> bool:
        """Tell whether ``path`` is an empty collection; False: a file.

        Raises:
            OSError: A collection that is not empty, or nobody can tell.
        """
        if not self._http.can_propfind:
            if not self._looking.stat(path).is_dir:
                return False
            raise OSError(
                errno.ENOTSUP,
                "the server does not answer PROPFIND, so nobody can tell whether the collection is "
                "empty; it was not removed",
                path,
            )
        resources = self._looking.propfind(path, "1", details=False)
        if len(resources) > 1:
            raise OSError(errno.ENOTEMPTY, "the collection is not empty", path)
        if not itself(resources, path).stat.is_dir:
            return False
        if not self._experiments.lists_hidden(path):
            raise OSError(
                errno.ENOTSUP,
                "the server does not list names that begin with a dot, so nobody can tell whether "
                "the collection is empty; it was not removed",
                path,
            )
        return True


def refuse_control_characters(path: str) -> None:
    """Refuse names that servers mangle, each in its way, while they seem to take them."""
    if CONTROL & set(path):
        raise OSError(
            errno.EINVAL, "control characters in a name do not survive on WebDAV servers", path
        )
