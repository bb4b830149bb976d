"""What one directory has that another lacks, or has otherwise."""

from __future__ import annotations

import errno
import json
import os
import posixpath
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace

from ..bulk import run_many
from ..exceptions import ConnectError, PoolClosed
from ..session import Entry, Stat
from .clock import Clock
from .local import refuse_special
from .place import Place
from .terminal import Failures


@dataclass(frozen=True)
class Difference:
    """A file that is to be copied, or whose contents are to be compared first.

    Attributes:
        name: Its name below both directories.
        size: Its length in bytes, where the source tells it.
        mtime: When it was modified last, where the source tells that.
        is_there: Whether the target has a file of that name.
        is_open: Whether only the contents can show if it has to be copied.
    """

    name: str
    size: int | None = None
    mtime: float | None = None
    is_there: bool = False
    is_open: bool = False

    def __str__(self) -> str:
        """Write it in a line of ASCII, whatever its name."""
        # Its fields in order; astuple() would copy each, at five times the price.
        return json.dumps([*vars(self).values()])

    @classmethod
    def read(cls, line: str | bytes) -> Difference:
        """Read what ``str()`` wrote."""
        return cls(*json.loads(line))


class Plan:
    """Differences in the order in which they were found; on disk, as there may be millions.

    Attributes:
        size: How many bytes all have, if that is known of each.
    """

    def __init__(self) -> None:
        self.size: int | None = 0
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the plan
        self._count = 0

    def add(self, difference: Difference) -> None:
        """Append a difference."""
        self._file.write(f"{difference}\n".encode())
        self._count += 1
        if self.size is not None:
            self.size = None if difference.size is None else self.size + difference.size

    def __len__(self) -> int:
        """Return how many there are."""
        return self._count

    def __iter__(self) -> Iterator[Difference]:
        """Give them in turn; nothing may be added meanwhile."""
        place = 0
        while True:
            self._file.seek(place)
            lines = self._file.readlines(2**16)
            if not lines:
                return
            place = self._file.tell()
            yield from map(Difference.read, lines)

    def close(self) -> None:
        """Forget them."""
        self._file.close()


@dataclass
class Differences:
    """How the target differs from the source.

    Attributes:
        plan: What has to be copied or compared.
        files: How many files the source has.
        same: How many are the same at the target.
        newer: How many were left alone because the target's are newer.
        extra: Files that the target alone has.
        extra_directories: The topmost directories that the target alone has.
    """

    plan: Plan = field(default_factory=Plan)
    files: int = 0
    same: int = 0
    newer: int = 0
    extra: Plan = field(default_factory=Plan)
    extra_directories: list[str] = field(default_factory=list)

    def close(self) -> None:
        """Forget them."""
        self.plan.close()
        self.extra.close()


@dataclass(frozen=True)
class _Pair:
    """A directory below both tops, and which of the two has it."""

    name: str
    is_here: bool
    is_there: bool


@dataclass
class _Found:
    """What comparing one directory has shown."""

    differences: list[Difference] = field(default_factory=list)
    files: int = 0
    same: int = 0
    newer: int = 0
    extra: list[str] = field(default_factory=list)
    extra_directories: list[str] = field(default_factory=list)
    inner: list[_Pair] = field(default_factory=list)
    failures: list[tuple[str, Exception]] = field(default_factory=list)


class Comparison:
    """Finds out what is to be done so that ``target`` gets what ``source`` has.

    Args:
        source: A directory.
        target: A directory, or where one may come to be.
        checksum: Whether only their contents tell that two files are equal.
        update: Whether files that are newer at the target stay as they are.
        is_done: Tells of files that an earlier run has copied or compared.
    """

    def __init__(
        self,
        source: Place,
        target: Place,
        *,
        checksum: bool,
        update: bool,
        is_done: Callable[[Difference], bool],
    ) -> None:
        self._source = source
        self._target = target
        self._checksum = checksum
        self._update = update
        self._is_done = is_done
        self._clock = Clock(target)

    def run(
        self, failed: Failures, *, threads: int, advance: Callable[[float], object]
    ) -> Differences:
        """Compare all directories, several at once.

        Args:
            failed: Gets what could not be looked at.
            threads: How many directories at a time.
            advance: Called with the number of files that were looked at.

        Raises:
            FileNotFoundError: There is no source.
            NotADirectoryError: It is a file, or the target is.
        """
        source, target = self._source, self._target
        if not source.is_dir():
            if not source.exists():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source))
            message = "is a file; `cp` copies single files"
            raise NotADirectoryError(errno.ENOTDIR, message, str(source))
        is_there = target.is_dir()
        if not is_there and target.exists():
            raise NotADirectoryError(errno.ENOTDIR, "is a file", str(target))
        result = Differences()
        try:
            self._run(_Pair("", is_here=True, is_there=is_there), result, failed, threads, advance)
        except BaseException:
            result.close()
            raise
        return result

    def _run(
        self,
        top: _Pair,
        result: Differences,
        failed: Failures,
        threads: int,
        advance: Callable[[float], object],
    ) -> None:
        level = [top]
        # One depth after the other: what is known of it fits into memory, names alone.
        while level:
            inner: list[_Pair] = []
            with closing(run_many(self._compare, level, threads=threads)) as run:
                for pair, future in run:
                    if (error := future.exception()) is not None:
                        here, there = (x.below(pair.name) for x in (self._source, self._target))
                        failed.add(f"{here} -> {there}", error)
                        continue
                    found = future.result()
                    for name, failure in found.failures:
                        failed.add(self._source.below(name), failure)
                    for difference in found.differences:
                        result.plan.add(difference)
                    for name in found.extra:
                        result.extra.add(Difference(name))
                    result.files += found.files
                    result.same += found.same
                    result.newer += found.newer
                    result.extra_directories += found.extra_directories
                    inner += found.inner
                    advance(found.files)
            level = inner

    def _compare(self, pair: _Pair) -> _Found:
        found = _Found()
        entries = self._source.below(pair.name).entries() if pair.is_here else []
        here = {entry.name: entry for entry in entries}
        for entry in entries:
            if here[entry.name] is not entry:
                # In a bucket it may be; what lies below it must not be left out in silence.
                error = FileExistsError(errno.EEXIST, "is a file, too; rename one of them")
                found.failures.append((posixpath.join(pair.name, f"{entry.name}/"), error))
        there: dict[str, Entry] = {}
        if pair.is_there:
            # A storage's root comes to be with its first file.
            with suppress(FileNotFoundError):
                there = _listing(self._target, pair.name)
        for name in sorted({*here, *there}):
            path = posixpath.join(pair.name, name)
            try:
                self._compare_entries(path, here.get(name), there.get(name), pair, found)
            except (ConnectError, PoolClosed):
                raise  # and do not try with each of the others
            except Exception as error:  # noqa: BLE001 - whatever another storage raises
                found.failures.append((path, error))
        return found

    def _compare_entries(
        self, path: str, mine: Entry | None, its: Entry | None, pair: _Pair, found: _Found
    ) -> None:
        if mine is None:
            assert its is not None  # noqa: S101 - one of both; for the type checker
            if its.is_dir and not its.is_link:
                found.inner.append(_Pair(path, is_here=False, is_there=True))
                found.extra_directories += [path] * pair.is_here
            else:
                found.extra.append(path)
        elif mine.is_dir:
            _refuse_link(mine)
            if its is not None:
                _refuse_link(its, f"{self._target.below(path)} ")
                if not its.is_dir:
                    message = f"{self._target.below(path)} is a file"
                    raise NotADirectoryError(errno.ENOTDIR, message)
            found.inner.append(_Pair(path, is_here=True, is_there=its is not None))
        else:
            found.files += 1
            if its is not None and its.is_dir:
                message = f"{self._target.below(path)} is a directory"
                raise IsADirectoryError(errno.EISDIR, message)
            self._compare_files(path, mine, its, found)

    def _compare_files(self, path: str, mine: Entry, its: Entry | None, found: _Found) -> None:
        here = mine.stat or self._source.below(path).stat()
        refuse_special(here.is_special, path)
        wanted = Difference(path, here.size, here.mtime, is_there=its is not None)
        if its is not None:
            there = its.stat or self._stat_there(path)
            if here.size == there.size or None in (here.size, there.size):
                by_time = not self._checksum and self._clock.same(path, here.mtime, there.mtime)
                if self._is_done(wanted) or by_time:
                    found.same += 1
                    return
                wanted = replace(wanted, is_open=self._checksum)
            if self._update and self._clock.newer(path, here.mtime, there.mtime):
                found.newer += 1
                return
        found.differences.append(wanted)

    def _stat_there(self, path: str) -> Stat:
        try:
            return self._target.below(path).stat()
        except FileNotFoundError:
            return Stat(size=-1)  # a link to nowhere, which the file replaces


def _listing(top: Place, name: str) -> dict[str, Entry]:
    return {entry.name: entry for entry in top.below(name).entries()}


def _refuse_link(entry: Entry, which: str = "") -> None:
    if entry.is_link:
        raise OSError(errno.ELOOP, f"{which}is a symbolic link to a directory")
