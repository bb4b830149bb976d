"""A directory gets another name, with all that is in it; a taken name is refused."""

from __future__ import annotations

import pytest
from django.core.files.base import ContentFile

from tests.contract.helpers import read


def rename(storage, source: str, target: str) -> None:
    with storage.pool.connection() as session:
        session.rename(storage._path(source), storage._path(target), is_dir=True)


def test_a_directory_goes_with_what_is_in_it(storage):
    for name in ("old/sub/x", "old/y z.txt", "beside/w"):
        storage.save(name, ContentFile(name.encode()))
    rename(storage, "old", "beside/nëw")
    assert read(storage, "beside/nëw/sub/x") == b"old/sub/x"
    assert read(storage, "beside/nëw/y z.txt") == b"old/y z.txt"
    assert read(storage, "beside/w") == b"beside/w"
    assert not storage.exists("old")


@pytest.mark.parametrize("taken", ["file", "dir/x"])
def test_a_taken_name_is_refused(storage, taken):
    storage.save("old/y", ContentFile(b"y"))
    storage.save(taken, ContentFile(b"taken"))
    with pytest.raises(FileExistsError):
        rename(storage, "old", taken.partition("/")[0])
    assert read(storage, taken) == b"taken"
    assert read(storage, "old/y") == b"y"
