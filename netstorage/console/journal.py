"""What a sync has done, written down so that whoever begins it again goes on from there."""

from __future__ import annotations

import json
import secrets
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from threading import Event, Lock
from typing import Any

from django.core.files.base import ContentFile

from ..exceptions import ConnectError
from ..leftovers import _remove
from ..session import Entry
from ..storage import TEMPORARY, NetworkStorage
from .content import Content
from .differences import Difference
from .place import Place

DAY = 86_400.0
"""Seconds after which a page says nothing any more: too much may have changed since."""
PAGE_SECONDS, PAGE_FILES = 5.0, 1000
"""A page is written after so many seconds or files: what a crash may forget."""


@dataclass
class Page:
    """A part of the journal: what was done in a while.

    Attributes:
        time: When it was begun, in seconds since the epoch.
        done: The keys of the files that are done.
    """

    time: float = field(default_factory=time.time)
    done: list[str] = field(default_factory=list)


class Journal:
    """Pages in a hidden directory in the target, where they are found from any machine.

    Nothing depends on them: what they do not tell is compared once more.

    Args:
        source: From where.
        target: To where.
        checksum: Whether contents are compared.
    """

    def __init__(self, source: Place, target: Place, *, checksum: bool) -> None:
        self._directory = target / f"{TEMPORARY}{_digest(f'{source} {target}', 16)}"
        self._checksum = checksum
        self._before: set[str] = set()
        self._page = Page()
        self._written = time.monotonic()
        self._lock = Lock()

    def read(self) -> None:
        """Learn what was done by those who did not come to their end."""
        for entry in self.pages():
            # A page may be half an upload's, or gone by now.
            with suppress(OSError, ValueError, TypeError, KeyError):
                page = self.page(entry.name)
                if abs(time.time() - page["time"]) < DAY:
                    self._before.update(page["done"])

    def __contains__(self, difference: Difference) -> bool:
        """Tell whether this version of a file was done before ``read()``."""
        return self.key(difference) in self._before

    def key(self, difference: Difference) -> str:
        """Return what stands for this version of a file."""
        told = difference.name, difference.size, difference.mtime, self._checksum
        return _digest(json.dumps(told), 12)

    def add(self, difference: Difference) -> None:
        """Write down that a file is done; from any thread."""
        with self._lock:
            self._page.done.append(self.key(difference))
            is_due = time.monotonic() - self._written > PAGE_SECONDS
            if not is_due and len(self._page.done) < PAGE_FILES:
                return
        self.flush()

    def flush(self) -> None:
        """Write what is not written yet."""
        with self._lock:
            page, self._page = self._page, Page()
            self._written = time.monotonic()
        # The files are there, whether or not they can be written down.
        with suppress(OSError):
            if page.done:
                self.write(page_name(), page)

    # Pages

    def pages(self) -> list[Entry]:
        """Tell which pages are there."""
        try:
            return self._directory.entries()
        except ConnectError:
            raise
        except OSError:
            return []

    def has(self, name: str) -> bool:
        """Tell whether a page is there."""
        return (self._directory / name).exists()

    def page(self, name: str) -> Any:
        """Read what was written on a page."""
        with (self._directory / name).open() as file:
            return json.loads(file.read())

    def write(self, name: str, page: Page) -> None:
        """Write a page, whole or not at all."""
        content = ContentFile(json.dumps(asdict(page)).encode())
        target = self._directory / name
        target.write(Content(content, lambda count: None, Event()), force=True)

    def remove_page(self, name: str) -> None:
        """Remove a page."""
        (self._directory / name).delete()

    def remove(self) -> None:
        """Remove all pages; what cannot be removed is for `cleanup`."""
        storage, path = self._directory.storage, self._directory.path
        with suppress(OSError):
            if isinstance(storage, NetworkStorage):
                # With what a killed process has left of a page.
                _remove(storage, path, is_dir=True)
                return
            for name in storage.listdir(path)[1]:
                self.remove_page(name)
            self._directory.delete()


def page_name() -> str:
    """Return the name of a new page."""
    return f"{secrets.token_hex(16)}.json"


def _digest(text: str, size: int) -> str:
    return blake2b(text.encode(errors="surrogateescape"), digest_size=size).hexdigest()
