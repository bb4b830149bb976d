"""Clients in processes of their own, which can be killed.

They are forked from a server process that has imported everything, which takes a second.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
django.setup()

from django.core.files.base import ContentFile  # noqa: E402

from netstorage import SFTPStorage, WebDAVStorage  # noqa: E402
from tests.servers.base import Server  # noqa: E402

PATIENCE = 60.0
"""Seconds that a test waits for a client, before it fails."""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__])


class Client:
    """Saves one name several times at once.

    Args:
        server: Where to.
        name: The name wanted.
        saves: A number for each save: the byte that its content is made of.
        size: How many of them.
        options: Options that win over the server's own.
    """

    def __init__(
        self, server: Server, name: str, saves: Sequence[int], size: int, **options: Any
    ) -> None:
        self._pipe, child = _context.Pipe()
        arguments = (child, server.protocol, server.options | options, name, saves, size)
        self._process = _context.Process(target=_save, args=arguments, daemon=True)
        self._process.start()
        child.close()

    def wait_until_ready(self) -> None:
        """Wait until it has a session."""
        assert self._hear() == "ready"

    def go(self) -> None:
        """Let it save."""
        self._pipe.send("go")

    def names(self) -> dict[int, str]:
        """The names that it got, by the number of the save; none where the name was locked."""
        return self._hear()

    def has_ended(self) -> bool:
        """Wait until it has saved, or was killed; tell which it is."""
        try:
            self.names()
        except EOFError:
            return True
        return False

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()
        self._process.join()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()
        self._process.close()
        self._pipe.close()

    def _hear(self) -> Any:
        assert self._pipe.poll(PATIENCE), "the client does not answer"
        answer = self._pipe.recv()
        if isinstance(answer, BaseException):
            raise answer
        return answer


def _save(
    pipe: Connection,
    protocol: str,
    options: dict[str, Any],
    name: str,
    saves: Sequence[int],
    size: int,
) -> None:
    try:
        storage = (SFTPStorage if protocol == "sftp" else WebDAVStorage)(**options)
        storage.exists("")
        together = threading.Barrier(len(saves))

        def save(number: int) -> str:
            content = ContentFile(bytes([number]) * size)
            together.wait()
            try:
                return storage.save(name, content)
            except OSError as error:
                if error.errno == errno.EBUSY:
                    return ""
                raise

        pipe.send("ready")
        pipe.recv()
        with ThreadPoolExecutor(len(saves)) as threads:
            names = list(threads.map(save, saves))
        pipe.send(dict(zip(saves, names, strict=True)))
    except BaseException as error:
        pipe.send(error)
