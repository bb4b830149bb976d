"""All names of files and of rows, compared in a temporary file: there may be millions."""

from __future__ import annotations

import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator

from .rows import Column, Parts, cleaned

CHUNK = 100
"""Names that are dealt with together."""

TABLES = """
PRAGMA journal_mode = OFF;
CREATE TABLE file (name BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE used (name BLOB, line BLOB);
CREATE INDEX used_name ON used (name);
CREATE TABLE alike (tail BLOB, is_whole INT, PRIMARY KEY (tail, is_whole)) WITHOUT ROWID;
"""


class Names:
    """The names of a storage's files, and those that rows have.

    A name that is in a row is used. One that is much like it may be used: another account or a
    mounted disk may show the same files under longer or shorter names, a symbolic link leads from
    one directory to another, and a server may take ``A`` for ``a``.

    Attributes:
        top: Where the storage begins.
        alike: How many files ``orphans()`` has left out since their names are like used ones.
    """

    def __init__(self, top: Parts) -> None:
        self.top = top
        self.alike = 0
        # It has no name, and goes with the process.
        self._db = sqlite3.connect("")
        self._db.executescript(TABLES)

    def close(self) -> None:
        """Remove them."""
        self._db.close()

    def add_files(self, names: Iterable[str]) -> None:
        """Add what the storage lists."""
        self._db.executemany("INSERT OR IGNORE INTO file VALUES (?)", ((_blob(x),) for x in names))

    def add_rows(self, column: Column) -> None:
        """Add the names in a column."""
        for key, name in column.rows():
            below = column.name_below(self.top, name)
            if below is None:
                whole, *ends = tails(_folded(cleaned(column.field.storage, name)))
                self._keep([(whole, True), *((end, False) for end in ends)])
                continue
            line = f"{column.model._meta.label} {key} {column.field.name} {name}"
            self._db.execute(
                "INSERT INTO used VALUES (?, ?)",
                (_blob(below), _blob(line) if column.is_own else None),
            )

    def not_listed(self) -> Iterator[list[str]]:
        """Give the names in rows that are no file's, some at a time, sorted.

        What lies elsewhere under the last part of such a name may be meant, and is kept.
        """
        for names in self._chunks(
            "SELECT DISTINCT name FROM used WHERE name NOT IN (SELECT name FROM file) ORDER BY name"
        ):
            self._keep((tails(_folded(name))[-1], True) for name in names)
            yield names

    def lines_of(self, name: str) -> list[str]:
        """Tell which rows of the storage's own fields have a name."""
        rows = self._db.execute(
            "SELECT DISTINCT line FROM used WHERE name = ? AND line NOT NULL ORDER BY line",
            (_blob(name),),
        )
        return [_text(line) for (line,) in rows]

    def are_strange(self) -> bool:
        """Tell whether there are files, and the storage's own fields have none of them."""
        ((some_files, some_used),) = self._db.execute(
            "SELECT EXISTS (SELECT 1 FROM file),"
            " EXISTS (SELECT 1 FROM used JOIN file USING (name) WHERE line NOT NULL)"
        )
        return bool(some_files and not some_used)

    def orphans(self) -> Iterator[list[str]]:
        """Give the files that no row has, some at a time, sorted. After ``not_listed()``."""
        for names in self._chunks(
            "SELECT name FROM file WHERE name NOT IN (SELECT name FROM used) ORDER BY name"
        ):
            sure = [name for name in names if not self._is_alike(name)]
            self.alike += len(names) - len(sure)
            yield sure

    def _keep(self, alike: Iterable[tuple[str, bool]]) -> None:
        self._db.executemany(
            "INSERT OR IGNORE INTO alike VALUES (?, ?)", ((_blob(x), whole) for x, whole in alike)
        )

    def _is_alike(self, name: str) -> bool:
        ends = tails(_folded("/".join([*self.top, name])))
        return any(
            self._db.execute("SELECT 1 FROM alike WHERE (tail, is_whole) = (?, ?)", each).fetchone()
            for each in [(_blob(_folded(name)), False), *((_blob(end), True) for end in ends)]
        )

    def _chunks(self, query: str) -> Iterator[list[str]]:
        rows = self._db.execute(query)
        while chunk := rows.fetchmany(CHUNK):
            yield [_text(name) for (name,) in chunk]


def tails(path: str) -> list[str]:
    """Return a path and all its ends: a/b/c, b/c and c."""
    parts = path.strip("/").split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _folded(name: str) -> str:
    """Return what is equal for names that some file system takes for one."""
    return unicodedata.normalize("NFC", name.replace("\\", "/").casefold())


def _blob(text: str) -> bytes:
    # Names may have bytes that are no text, as surrogates.
    return text.encode("utf-8", "surrogatepass")


def _text(blob: bytes) -> str:
    return blob.decode("utf-8", "surrogatepass")
