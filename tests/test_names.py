"""Names: none leaves the storage's location, and those that are taken come back as they went."""

from __future__ import annotations

import errno
import os
import posixpath
import unicodedata
from dataclasses import dataclass, field
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from django.core.exceptions import SuspiciousFileOperation
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from netstorage import SFTPStorage
from netstorage.pool import ConnectionPool
from netstorage.session import Session, Stat
from netstorage.storage import NetworkStorage

# --- nothing leaves the location -----------------------------------------------------------------


class Recorder(Session):
    """A session that says yes to everything and writes down the paths that it hears."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def is_alive(self) -> bool:
        return True

    def ping(self) -> None: ...

    def close(self) -> None: ...

    def abandon(self) -> None: ...

    def stat(self, path, *, follow=True):
        self.paths.append(path)
        if not follow:
            raise FileNotFoundError(errno.ENOENT, "free", path)
        return Stat(size=0, mtime=0.0, atime=0.0)

    def listdir(self, path, *, details=False):
        self.paths.append(path)
        return []

    def read(self, path, start, stop, sink):
        self.paths.append(path)
        return Stat(size=0)

    def write(self, path, source, size, mode, directory_mode, mtime=None):
        self.paths.append(path)

    def rename(self, source, target):
        self.paths.extend([source, target])

    replace = rename

    def remove(self, path):
        self.paths.append(path)


@dataclass(eq=False)
class RecordingEndpoint:
    paths: list[str] = field(default_factory=list)

    def connect(self) -> Session:
        return Recorder(self.paths)

    def __str__(self) -> str:
        return "recorder"


class RecordingStorage(SFTPStorage):
    """A storage on no server: the names that would be sent are in ``paths``."""

    def __init__(self, **options) -> None:
        super().__init__(host="example.com", **options)
        endpoint = RecordingEndpoint()
        self.paths = endpoint.paths
        self.pool = ConnectionPool(endpoint)


def save(storage, name):
    return storage.save(name, ContentFile(b""))


def write(storage, name):
    with storage.open(name, "wb") as file:
        file.write(b"x")


def edit(storage, name):
    with storage.open(name, "r+b") as file:
        file.write(b"x")


def read(storage, name):
    with storage.open(name) as file:
        file.read()


VERBS = {
    "save": save,
    "open to read": read,
    "open to write": write,
    "open to edit": edit,
    "exists": lambda storage, name: storage.exists(name),
    "size": lambda storage, name: storage.size(name),
    "listdir": lambda storage, name: storage.listdir(name),
    "delete": lambda storage, name: storage.delete(name),
    "get_modified_time": lambda storage, name: storage.get_modified_time(name),
    "get_accessed_time": lambda storage, name: storage.get_accessed_time(name),
    "get_available_name": lambda storage, name: storage.get_available_name(name),
    "is_name_available": lambda storage, name: storage.is_name_available(name),
}

LOCATIONS = ["", "media", "media/up loads", "/", "/srv", "/srv/media", "../sibling"]

SEGMENTS = st.sampled_from(
    [
        "..",
        "..",
        ".",
        "",
        "a",
        "b c",
        "...",
        "..a",
        "~",
        "srv",
        "media",
        "up loads",
        "é",
        "C:",
        "%2e",
    ]
) | st.text(max_size=5)
NAMES = st.builds(
    lambda prefix, segments, separator, end: prefix + separator.join(segments) + end,
    st.sampled_from(["", "", "", "/", "//", "\\", "./", "../", "/srv/", "/srv/media/"]),
    st.lists(SEGMENTS, max_size=6),
    st.sampled_from(["/", "/", "//", "\\", "/./"]),
    st.sampled_from(["", "", "/", "\\", "\0", "/..", "\\.."]),
)


def within(path: str, location: str) -> bool:
    """Whether a path is the location or below it, by the rules of POSIX."""
    # A relative location hangs somewhere below a root.
    root = posixpath.normpath(posixpath.join("/login/directory", location)).rstrip("/")
    full = posixpath.normpath(posixpath.join("/login/directory", path))
    return f"{full}/".startswith(f"{root}/")


@settings(max_examples=500, deadline=None)
@given(location=st.sampled_from(LOCATIONS), name=NAMES, verb=st.sampled_from([*VERBS]))
@example(location="/srv/media", name="/srv/media2/x", verb="exists")
@example(location="/srv/media", name="/srv/media/../x", verb="exists")
@example(location="/srv/media", name="//etc/passwd", verb="exists")
@example(location="", name="/etc/passwd", verb="open to read")
@example(location="", name="\\Windows\\x", verb="open to read")
@example(location="media", name="..\\..\\x", verb="open to write")
@example(location="media", name="a\\..\\..\\x", verb="delete")
def test_no_accepted_name_leaves_the_location(location, name, verb):
    """Whatever is sent lies in the location; what does not is refused before anything is sent."""
    storage = RecordingStorage(location=location)
    try:
        VERBS[verb](storage, name)
    except SuspiciousFileOperation:
        assert storage.paths == []
        assert storage.pool.stats().requests == 0
        return
    except (ValueError, IsADirectoryError):
        # The root can neither be deleted nor written to.
        assert verb in {"delete", "open to write", "open to edit"}
        assert storage.paths == []
        return
    assert storage.paths
    for path in storage.paths:
        assert "\0" not in path
        assert within(path, location), path
        # Nor does it on a server that takes a backslash for a slash.
        assert within(path.replace("\\", "/"), location), path


@settings(max_examples=300, deadline=None)
@given(location=st.sampled_from(LOCATIONS), name=NAMES)
def test_names_that_stay_inside_are_accepted(location, name):
    """No more is refused than has to be: detours within the location are fine."""
    assume("\\" not in name and "\0" not in name)
    if name.startswith("/"):
        assume(location.startswith("/"))
        path = name
    else:
        # That a name comes back through the location's own parent is not looked into.
        path = posixpath.join(location, name)
        assume(not posixpath.normpath(name).startswith(".."))
    assume(within(posixpath.normpath(path).replace("//", "/"), location))
    storage = RecordingStorage(location=location)
    storage.exists(name)
    (sent,) = storage.paths
    expected = posixpath.normpath(posixpath.join(location, name)).replace("//", "/")
    assert posixpath.normpath(sent) == expected


@settings(max_examples=200, deadline=None)
@given(name=NAMES)
def test_it_refuses_where_filesystemstorage_refuses(name):
    """Every name that Django's own storage takes for an attempt to get out is one here, too."""
    theirs = FileSystemStorage(location="/srv/media")
    try:
        theirs.path(name)
    except (SuspiciousFileOperation, ValueError):
        storage = RecordingStorage(location="/srv/media")
        with pytest.raises(SuspiciousFileOperation):
            storage.exists(name)
        assert storage.paths == []


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    "name",
    [
        "..",
        "../x",
        "../../../etc/passwd",
        "a/../../x",
        "/etc/passwd",
        "//etc/passwd",
        "..\\x",
        "a\\..\\..\\x",
        "\\x",
        "a\0b",
        "\0",
        "\ud800",
        PurePosixPath("../x"),
        PurePosixPath("/etc/passwd"),
        PureWindowsPath("..\\x"),
    ],
    ids=ascii,
)
def test_every_method_refuses_before_it_connects(verb, name):
    storage = RecordingStorage(location="media")
    with pytest.raises(SuspiciousFileOperation):
        VERBS[verb](storage, name)
    stats = storage.pool.stats()
    assert (stats.requests, stats.connects, storage.paths) == (0, 0, [])


def test_a_refused_name_is_told():
    with pytest.raises(SuspiciousFileOperation, match=r"'\.\./x' leads out"):
        RecordingStorage().exists("../x")


@pytest.mark.parametrize("name", ["", ".", "./", "a/.."])
def test_the_root_has_many_names(name):
    storage = RecordingStorage(location="media")
    storage.listdir(name)
    assert storage.paths == ["media"]
    storage.paths.clear()
    with pytest.raises(ValueError, match="name must be given"):
        storage.delete(name)
    for mode in ("wb", "ab", "xb", "r+b"):
        with pytest.raises(IsADirectoryError):
            storage.open(name, mode)
    assert storage.paths == []


@pytest.mark.parametrize("name", ["", ".", "..", "a/", "a/..", "a/.", "/"])
def test_no_file_is_saved_without_a_name(name):
    storage = RecordingStorage(location="media")
    with pytest.raises(SuspiciousFileOperation):
        save(storage, name)
    assert storage.paths == []


def test_uploads_grow_beside_their_names():
    """The temporary name is hidden, in the same directory, and another each time."""
    storage = RecordingStorage(location="media")
    save(storage, "a/b.txt")
    save(storage, "a/b.txt")
    temporary = {path for path in storage.paths if path != "media/a/b.txt"}
    assert len(temporary) == 2
    assert all(path.startswith("media/a/.netstorage-") for path in temporary)


# --- Django's own name handling ------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(name=NAMES)
def test_names_are_made_as_filesystemstorage_makes_them(name):
    """generate_filename(), get_valid_name() and get_alternative_name() are Django's."""
    ours, theirs = RecordingStorage(), FileSystemStorage()
    for method in ("generate_filename", "get_valid_name"):
        results = []
        for storage in (ours, theirs):
            try:
                results.append(getattr(storage, method)(name))
            except SuspiciousFileOperation as error:
                results.append(str(error))
        assert results[0] == results[1]
    assert ours.paths == []


@settings(max_examples=100, deadline=None)
@given(
    folder=st.sampled_from(["", "a/", "a/b/"]),
    root=st.from_regex(r"[a-zé]{1,30}", fullmatch=True),
    extension=st.sampled_from(["", ".txt", ".tar.gz"]),
    max_length=st.none() | st.integers(15, 60),
    taken=st.integers(0, 3),
)
def test_available_names(folder, root, extension, max_length, taken):
    """Free, in the same folder, with the same extension, no longer than allowed."""
    storage = RecordingStorage()
    tries = []

    def exists(name):
        tries.append(name)
        return len(tries) <= taken

    storage.exists = exists
    name = folder + root + extension
    try:
        found = storage.get_available_name(name, max_length=max_length)
    except SuspiciousFileOperation:
        assert max_length is not None
        return
    if not taken and (max_length is None or len(name) <= max_length):
        assert found == name
    assert found == tries[-1]
    assert found.startswith(folder)
    assert found.endswith(extension)
    assert max_length is None or len(found) <= max_length


def test_a_path_is_as_good_as_its_text():
    storage = RecordingStorage(location="media")
    for name in ("a/b.txt", PurePosixPath("a/b.txt"), PureWindowsPath("a\\b.txt")):
        storage.size(name)
        read(storage, name)
    assert set(storage.paths) == {"media/a/b.txt"}
    assert save(storage, PurePosixPath("a/b.txt")) == "a/b.txt"


def test_a_backslash_in_a_new_name_is_a_slash():
    """As Django has it for every storage; elsewhere it is a character like any."""
    storage = RecordingStorage()
    assert save(storage, "a\\b.txt") == "a/b.txt"
    storage.paths.clear()
    storage.exists("a\\b.txt")
    assert storage.paths == ["a\\b.txt"]


# --- names come back as they went, on both embedded servers --------------------------------------


@pytest.fixture(params=["sftp_storage", "webdav_storage"])
def storage(request) -> NetworkStorage:
    """A storage on each embedded server, at an empty folder."""
    return request.getfixturevalue(request.param)


def round_trip(storage: NetworkStorage, name: str) -> None:
    content = name.encode("utf-8", "surrogateescape")
    assert storage.save(name, ContentFile(content)) == name
    folder, base = posixpath.split(name)
    assert storage.listdir(folder) == ([], [base])
    assert storage.exists(name)
    assert storage.size(name) == len(content)
    with storage.open(name) as file:
        assert file.read() == content
    with storage.open(name, "ab") as file:
        file.write(b"!")
    with storage.open(name) as file:
        assert file.read() == content + b"!"
    storage.delete(name)
    assert not storage.exists(name)
    assert storage.listdir(folder) == ([], [])


ODD = {
    "space in the middle": "a b.txt",
    "space at the end": "a.txt ",
    "space at the beginning": " a.txt",
    "dot at the end": "a.txt.",
    "dots": "...",
    "hidden": ".a",
    "percent": "100%.txt",
    "percent-encoded": "%41.txt",
    "percent-encoded slash": "a%2Fb.txt",
    "percent-encoded dots": "%2e%2e",
    "percent-encoded NUL": "a%00b",
    "hash": "a#b.txt",
    "plus": "a+b.txt",
    "ampersand": "a&b<c>.txt",
    "quotes": "a'b\"c.txt",
    "colon": "C:a.txt",
    "tilde": "~",
    "dash": "-rf",
    "star": "*?"[:1],
    "brackets": "[a]{b}(c).txt",
    "umlaut": "ä.txt",
    "emoji": "🎉👩‍👩‍👧.txt",
    "right to left": "\u202etxt.exe",
    "byte order mark": "\ufeffa.txt",
    "255 bytes": "x" * 255,
    "255 bytes of umlauts": "ü" * 127 + "x",
    "two folders": "ä b/%41#/c+.txt",
    "like a part of an URL": "http:/x",
    "CDATA": "]]>",
}


@pytest.mark.parametrize("name", ODD.values(), ids=ODD)
def test_odd_names_come_back(storage, name):
    round_trip(storage, name)


ONLY_SFTP = {
    "newline": "a\nb.txt",
    "control characters": "\x01\t\r\x7f",
    "question mark": "what?.txt",
    "semicolon": "a;b.txt",
    "bytes that are no text": os.fsdecode(b"\xff\xfe.txt"),
}


@pytest.mark.parametrize("name", ONLY_SFTP.values(), ids=ONLY_SFTP)
def test_on_sftp_anything_is_a_name(sftp_storage, name):
    round_trip(sftp_storage, name)


@pytest.mark.parametrize("name", ONLY_SFTP.values(), ids=ONLY_SFTP)
@pytest.mark.parametrize("write", [save, write])
def test_what_a_webdav_server_would_mangle_is_refused(webdav_storage, webdav_server, name, write):
    """WsgiDAV ends names at ``?`` and ``;``, and XML has no control characters."""
    with pytest.raises(OSError) as caught:
        write(webdav_storage, name)
    assert caught.value.errno == errno.EINVAL
    assert caught.value.filename == name
    # Nothing is left: neither under the cut name nor under a temporary one.
    assert os.listdir(webdav_server.root / webdav_storage.location) == []


@pytest.mark.parametrize("name", ["what?.txt", "a;b.txt", "?", "a?b;c#d%41"])
def test_such_names_that_are_there_can_be_read_and_deleted(webdav_storage, webdav_server, name):
    path = webdav_server.root / webdav_storage.location / name
    path.write_bytes(b"x")
    assert webdav_storage.listdir("") == ([], [name])
    assert webdav_storage.exists(name)
    with webdav_storage.open(name) as file:
        assert file.read() == b"x"
    webdav_storage.delete(name)
    assert not path.exists()


@pytest.mark.parametrize("fixture", ["sftp", "webdav"])
def test_backslashes_that_are_there_can_be_read_and_deleted(request, fixture):
    storage = request.getfixturevalue(f"{fixture}_storage")
    path = request.getfixturevalue(f"{fixture}_server").root / storage.location / "a\\b.txt"
    path.write_bytes(b"x")
    assert storage.listdir("") == ([], ["a\\b.txt"])
    with storage.open("a\\b.txt") as file:
        assert file.read() == b"x"
    storage.delete("a\\b.txt")
    assert not path.exists()


def test_composed_and_decomposed_are_two_names(storage):
    """The servers here keep bytes; one on macOS would make them one."""
    composed, decomposed = (unicodedata.normalize(form, "é.txt") for form in ("NFC", "NFD"))
    assert storage.save(composed, ContentFile(b"C")) == composed
    assert not storage.exists(decomposed)
    assert storage.save(decomposed, ContentFile(b"D")) == decomposed
    assert set(storage.listdir("")[1]) == {composed, decomposed}
    with storage.open(composed) as file:
        assert file.read() == b"C"


def test_upper_and_lower_case_are_two_names(storage):
    assert storage.save("a", ContentFile(b"")) == "a"
    assert storage.save("A", ContentFile(b"")) == "A"


@pytest.mark.parametrize("name", ["x" * 256, "ü" * 128, "folder/" + "x" * 300])
def test_a_name_that_is_too_long_says_so(storage, name):
    with pytest.raises(OSError) as caught:
        save(storage, name)
    assert caught.value.errno == errno.ENAMETOOLONG
    assert caught.value.filename == name
    assert storage.listdir("")[1] == []


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(name=st.lists(TEXT, min_size=1, max_size=3).map("/".join))
def test_names_come_back_or_are_refused(storage, name):
    """Save, list, open, delete under any name; or a refusal, and nothing stored."""
    name = posixpath.normpath(name.replace("\\", "/"))
    try:
        round_trip(storage, name)
    except SuspiciousFileOperation:
        assert name.startswith(("/", "..", ".")) or "\0" in name
    except OSError as error:
        assert not isinstance(storage, SFTPStorage), error
        assert error.errno == errno.EINVAL
        assert set(name) & {"?", ";"} or any(
            unicodedata.category(letter) in {"Cc", "Cn", "Co"} for letter in name
        )
    folders, files = storage.listdir("")
    assert files == []
    for folder in folders:
        assert not any(storage.listdir(folder)[1])
        empty(storage, folder)


def empty(storage: NetworkStorage, folder: str) -> None:
    for below in storage.listdir(folder)[0]:
        empty(storage, posixpath.join(folder, below))
    storage.delete(folder)


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    raw=st.binary(min_size=1, max_size=30).filter(
        lambda raw: not {0, ord("/"), ord("\\")} & set(raw) and raw not in {b".", b".."}
    )
)
def test_every_byte_is_kept_on_sftp(sftp_storage, sftp_server, raw):
    """What is no UTF-8 travels as surrogate escapes, as in Python's os module."""
    name = raw.decode("utf-8", "surrogateescape")
    sftp_storage.save(name, ContentFile(raw))
    folder = os.fsencode(sftp_server.root / sftp_storage.location)
    assert os.listdir(folder) == [raw]
    assert sftp_storage.listdir("") == ([], [name])
    sftp_storage.delete(name)
