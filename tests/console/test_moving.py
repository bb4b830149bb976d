"""``cat``, ``get``, ``put``, ``cp``, ``mv`` and ``rm`` do what their names promise on Unix."""

from __future__ import annotations

import io
import os
import stat

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.core.management import CommandError

from netstorage.console.local import Local
from netstorage.console.place import Place
from netstorage.console.terminal import Terminal
from tests.console.conftest import over_sftp
from tests.contract.helpers import raw_names, read

FEW_SERVERS = True

OTHERS = ["disk", "memory", "bucket", "nas2"]
LARGE = 3 * 2**20 + 1
THEN = 1_500_000_000


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working directory, with a tree of files of three years."""
    folder = tmp_path / "here"
    for name, size in [("a.txt", 3), ("t/large.bin", LARGE), ("t/in/a b\nü.txt", 0), ("t/b", 7)]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size))
        os.utime(path, (THEN, THEN))
    (folder / "t/empty/inner").mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def plain(here):
    """The same tree without a line break in a name, which WebDAV servers do not take."""
    (here / "t/in/a b\nü.txt").rename(here / "t/in/a b ü.txt")
    return here


def files_below(folder) -> dict[str, bytes | None]:
    """Each file with its content, and each directory."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def test_a_file_there_and_back(run, nas, here):
    assert run("put", "a.txt", "nas:b.txt") == ""
    assert read(nas, "b.txt") == (here / "a.txt").read_bytes()
    assert run("get", "nas:b.txt", "c.txt") == ""
    assert (here / "c.txt").read_bytes() == (here / "a.txt").read_bytes()
    assert (here / "c.txt").stat().st_mtime == int(nas.get_modified_time("b.txt").timestamp())
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((here / "c.txt").stat().st_mode) == 0o666 & ~mask


def test_a_tree_there_and_back(run, server, nas, here):
    """Empty directories, large files and strange names, over a storage of each other kind."""
    if server.protocol == "webdav":
        (here / "t/in/a b\nü.txt").rename(here / "t/in/a b ü.txt")
    run("put", "-r", "t", "nas:")
    run("get", "-r", "nas:t", "back")
    assert files_below(here / "back") == files_below(here / "t")
    run("get", "-r", "nas:t", "back")
    assert files_below(here / "back/t") == files_below(here / "t")


@pytest.mark.parametrize("other", OTHERS)
def test_a_tree_from_storage_to_storage(run, nas, plain, other):
    run("put", "-r", "t", "nas:")
    run("cp", "-r", "nas:t", f"{other}:new/copy")
    run("cp", "-r", f"{other}:new/copy", "nas:second")
    run("get", "-r", "nas:second", "back")
    expected = files_below(plain / "t")
    if other == "bucket":
        expected = {
            name: content for name, content in expected.items() if not name.startswith("empty")
        }
    assert files_below(plain / "back") == expected
    assert files_below(plain / "t").keys() >= expected.keys()


def test_the_root_goes_with_what_is_in_it(run, nas, plain):
    run("put", "-r", "t", "nas:")
    run("get", "-r", "nas:", "all")
    assert files_below(plain / "all/t") == files_below(plain / "t")
    run("put", "-r", "t/.", "nas:dots")
    assert sorted(nas.listdir("dots")[1]) == ["b", "large.bin"]


def test_a_directory_needs_r(run, nas, plain):
    nas.save("dir/x", ContentFile(b"x"))
    for words in (
        ["put", "t", "nas:"],
        ["get", "nas:dir", "back"],
        ["cp", "nas:dir", "disk:"],
        ["rm", "nas:dir"],
    ):
        with pytest.raises(CommandError, match=r"^(nas:dir|t): is a directory; add -r$"):
            run(*words)
    nas.delete("dir/x")
    with pytest.raises(CommandError, match=r"^nas:dir: is a directory; add -r$"):
        run("rm", "nas:dir")
    assert nas.listdir("") == (["dir"], [])
    with pytest.raises(CommandError, match=r"[Ii]s a (directory|collection)"):
        run("cat", "nas:dir")


@pytest.mark.parametrize("subcommand", ["put", "cp", "mv", "get"])
@pytest.mark.parametrize("other", ["nas", *OTHERS])
def test_nothing_is_overwritten_without_force(run, nas, here, subcommand, other):
    """Neither under the name that was typed nor in a directory."""
    if subcommand == "get" and other != "nas":
        return
    source, target = "a.txt", f"{other}:dir/old.txt"
    new = (here / "a.txt").read_bytes()
    nas.save("new.txt", ContentFile(new))
    if subcommand != "put":
        source = "nas:new.txt"
    if subcommand == "get":
        target = str(here / "dir/old.txt")
        (here / "dir").mkdir()
        (here / "dir/old.txt").write_bytes(b"old")
        content = (here / "dir/old.txt").read_bytes
    else:
        storages[other].save("dir/old.txt", ContentFile(b"old"))
        content = lambda: read(storages[other], "dir/old.txt")  # noqa: E731
    with pytest.raises(CommandError, match=r"is there already; --force replaces it$") as caught:
        run(subcommand, source, target)
    assert "\n" not in str(caught.value)
    assert content() == b"old"
    run(subcommand, "--force", source, target)
    assert content() == new
    assert nas.exists("new.txt") == (subcommand != "mv")


def test_into_a_directory(run, nas, here):
    nas.save("dir/x", ContentFile(b"x"))
    nas.save("y", ContentFile(b"y"))
    run("put", "a.txt", "nas:dir")
    run("put", "a.txt", "t/b", "nas:new/")
    run("cp", "nas:y", "nas:dir")
    run("mv", "nas:y", "nas:dir/", "--force")
    assert sorted(nas.listdir("dir")[1]) == ["a.txt", "x", "y"]
    assert sorted(nas.listdir("new")[1]) == ["a.txt", "b"]
    run("get", "nas:dir/x", "nas:dir/y", "t")
    assert (here / "t/x").read_bytes() == b"x"
    with pytest.raises(CommandError, match="dir/x is no directory to take 2 files"):
        run("put", "a.txt", "t/b", "nas:dir/x")
    with pytest.raises(CommandError, match=r"^t/in/../b: another one goes to nas:b$"):
        run("put", "t/b", "t/in/../b", "nas:", "--force")


def test_a_directory_never_gives_way(run, nas, here):
    nas.save("dir/a.txt/x", ContentFile(b"x"))
    (here / "dir/x").mkdir(parents=True)
    for words in (["put", "a.txt", "nas:dir"], ["get", "nas:dir/a.txt/x", "dir"]):
        with pytest.raises(CommandError, match="is there already, and is a directory"):
            run(*words)
        with pytest.raises(CommandError, match=r"[Ii]s a (directory|collection)"):
            run(*words, "--force")
    nas.save("file", ContentFile(b"f"))
    with pytest.raises(CommandError, match="nas:file is a file"):
        run("cp", "-r", "nas:dir", "nas:file", "--force")
    assert read(nas, "dir/a.txt/x") == b"x"
    assert read(nas, "file") == b"f"


def test_standard_input_and_output(run, nas, monkeypatch):
    data = os.urandom(LARGE)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    run("put", "-", "nas:piped")
    assert read(nas, "piped") == data
    nas.save("text", ContentFile("grün\n".encode()))
    assert run("cat", "nas:text", "nas:text") == "grün\ngrün\n"
    assert run("get", "nas:text", "-") == "grün\n"
    for words in (["put", "-", "nas:"], ["put", "-", "nas:dir/"], ["put", "-", "x", "nas:piped"]):
        with pytest.raises(CommandError, match="needs a name"):
            run(*words)
    with pytest.raises(CommandError, match=r"^nas:text: is there already; --force"):
        run("put", "-", "nas:text")


@pytest.mark.parametrize("name", ["file.txt", "dir"])
def test_mv_within_a_storage_is_a_rename_on_the_server(run, server, nas, name):
    nas.save(f"old/{name}" + "/x" * (name == "dir"), ContentFile(b"content"))
    root = server.root / nas.location
    inode = (root / "old" / name).stat().st_ino
    run("mv", f"nas:old/{name}", "nas:new/place")
    assert (root / "new/place").stat().st_ino == inode
    assert nas.listdir("old") == ([], [])
    run("mv", "nas:new/place", "nas:old")
    assert (root / "old/place").stat().st_ino == inode


@pytest.mark.parametrize("other", OTHERS)
def test_mv_to_another_storage(run, nas, plain, other):
    run("put", "-r", "t", "nas:")
    run("mv", "nas:t", f"{other}:")
    assert nas.listdir("") == ([], [])
    run("mv", f"{other}:t", "nas:again")
    assert read(nas, "again/large.bin") == (plain / "t/large.bin").read_bytes()
    assert storages[other].listdir("") == ([], [])
    with pytest.raises(CommandError, match=r"^nas:again: .*again is there already$"):
        storages[other].save("again/x", ContentFile(b""))
        run("mv", "nas:again", f"{other}:")


@pytest.mark.parametrize("subcommand", ["mv", "cp"])
def test_nothing_goes_to_itself(run, nas, subcommand, tmp_path):
    """Not even by another alias, and with --force; the file would be gone."""
    nas.save("dir/x", ContentFile(b"x"))
    nas.save("f", ContentFile(b"f"))
    storages["disk"].save("g", ContentFile(b"g"))
    force = ["--force"] + ["-r"] * (subcommand == "cp")
    for source, target in [("nas:f", "nas:f"), ("nas:f", "twin:"), ("nas:f", "nas:dir/../f")]:
        with pytest.raises(CommandError, match=r"^nas:f: is the same file as (nas|twin):f$"):
            run(subcommand, *force, source, target)
    for target in ("nas:dir", "nas:dir/sub", "twin:dir/x/y"):
        with pytest.raises(CommandError, match=r"^nas:dir: cannot go into itself"):
            run(subcommand, *force, "nas:dir", target)
    with pytest.raises(CommandError, match="is the same file"):
        run("put", "--force", tmp_path / "disk/g", "disk:")
    assert read(nas, "dir/x") == b"x"
    assert read(nas, "f") == b"f"


def test_what_changed_while_it_moved_stays(run, nas, monkeypatch):
    nas.save("f", ContentFile(b"before"))
    save = type(storages["bucket"])._save

    def meanwhile(storage, name, content):
        with nas.open("f", "wb") as file:
            file.write(b"afterwards")
        return save(storage, name, content)

    monkeypatch.setattr(type(storages["bucket"]), "_save", meanwhile)
    with pytest.raises(CommandError, match="changed while it was copied; it was not removed"):
        run("mv", "nas:f", "bucket:")
    assert read(nas, "f") == b"afterwards"


def test_what_arrived_with_another_length_stays(run, nas, monkeypatch):
    nas.save("f", ContentFile(b"content"))
    monkeypatch.setattr(type(storages["bucket"]), "size", lambda storage, name: 3)
    with pytest.raises(CommandError, match="it was not removed"):
        run("mv", "nas:f", "bucket:")
    assert read(nas, "f") == b"content"


def test_rm(run, nas):
    for name in ("a", "b", "dir/x", "dir/in/y", "kept/z"):
        nas.save(name, ContentFile(b""))
    nas.delete(nas.save("dir/empty/x", ContentFile(b"")))
    assert run("rm", "nas:a", "nas:b") == ""
    run("rm", "-r", "nas:dir")
    assert nas.listdir("") == (["kept"], [])
    with pytest.raises(CommandError, match=r"^nas:a: No such file or directory$"):
        run("rm", "nas:a")
    with pytest.raises(CommandError, match=r"^nas: is the root of a storage"):
        run("rm", "-r", "nas:")
    with pytest.raises(CommandError, match=r"^nas: is the root of a storage"):
        run("mv", "nas:", "disk:x")
    assert nas.exists("kept/z")


@pytest.mark.parametrize("other", ["disk", "memory", "bucket"])
def test_rm_elsewhere(run, nas, other):
    for name in ("a", "dir/x", "dir/in/y"):
        storages[other].save(name, ContentFile(b""))
    run("rm", "-r", f"{other}:dir", f"{other}:a")
    assert storages[other].listdir("") == ([], [])


def test_rm_leaves_what_a_link_leads_to(run, server, nas, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/x").write_bytes(b"x")
    nas.save("dir/in/x", ContentFile(b""))
    root = server.root / nas.location
    places = ["disk"] if server.protocol == "webdav" else ["nas", "disk"]
    for alias in places:
        base = root if alias == "nas" else tmp_path / "disk"
        (base / "dir/in").mkdir(parents=True, exist_ok=True)
        (base / "dir/in/link").symlink_to(tmp_path / "precious")
        (base / "link").symlink_to(tmp_path / "precious")
        run("rm", "-r", f"{alias}:dir", f"{alias}:link")
        assert storages[alias].listdir("") == ([], [])
    assert (tmp_path / "precious/x").exists()


@pytest.mark.parametrize("other", ["nas", "disk"])
def test_the_bar_shows_bytes(run, nas, plain, other, monkeypatch):
    """The lengths come with the listings."""
    run("put", "-r", "t", f"{other}:")
    seen = []
    progress = Terminal.progress

    def watched(terminal, what, total, *, of_bytes):
        seen.append((what, total, of_bytes))
        return progress(terminal, what, total, of_bytes=of_bytes)

    monkeypatch.setattr(Terminal, "progress", watched)
    run("cp", "-r", f"{other}:t", "nas2:")
    run("get", "-r", f"{other}:t", "back")
    run("put", "-r", "t", "nas:again")
    run("mv", f"{other}:t", "memory:")
    assert seen == [("copied", LARGE + 7, True)] * 3 + [("moved", LARGE + 7, True)]


def test_rm_tells_of_hidden_files_elsewhere(run, nas, tmp_path):
    """A copy to a disk that is under way is not removed either."""
    hidden = tmp_path / "disk/dir" / f".netstorage-{'0' * 32}"
    storages["disk"].save("dir/x", ContentFile(b""))
    hidden.write_bytes(b"half")
    with pytest.raises(CommandError, match=r"not empty; hidden files of uploads"):
        run("rm", "-r", "disk:dir")
    assert os.listdir(hidden.parent) == [hidden.name]
    hidden.unlink()


def test_rm_tells_of_hidden_files(run, nas):
    """What an upload under way needs is not removed with its directory."""
    nas.save("dir/x", ContentFile(b""))
    hidden = f"dir/.netstorage-{'0' * 32}"
    nas.save(hidden, ContentFile(b""))
    with pytest.raises(CommandError, match="not empty; `cleanup` knows of hidden files"):
        run("rm", "-r", "nas:dir")
    assert list(raw_names(nas, "dir")) == [hidden.removeprefix("dir/")]
    nas.delete(hidden)


@pytest.mark.parametrize(
    "words",
    [["put", "a.txt", "frozen:"], ["cp", "nas:x", "frozen:y"], ["rm", "frozen:x"],
     ["mv", "frozen:x", "disk:"], ["mv", "frozen:x", "frozen:y"]],
)  # fmt: skip
def test_a_read_only_storage(run, nas, here, words):
    nas.save("x", ContentFile(b"x"))
    storages["frozen"].__dict__["location"] = nas.location
    with pytest.raises(CommandError, match="read-only"):
        run(*words)
    assert nas.listdir("") == ([], ["x"])
    assert not storages["disk"].exists("x")


@pytest.mark.parametrize("words", [["put", "a.txt"], ["cp", "nas:x"], ["mv", "nas:x"]])
def test_names_outside_are_refused_before_anything_is_sent(run, nas, here, words, monkeypatch):
    monkeypatch.setattr(type(nas), "_run", None)
    for alias in ("nas", "disk", "memory", "bucket"):
        with pytest.raises(CommandError, match="leads out of the storage"):
            run(*words, f"{alias}:a/../../x")


@pytest.mark.parametrize(
    "words",
    [
        ["rm", "disk:far/in/x"],
        ["rm", "-r", "disk:far/in"],
        ["mv", "disk:far/in/x", "disk:y"],
        ["mv", "disk:far/in", "nas:y"],
        ["sync", "--delete", "nas:s", "disk:far/in"],
        ["sync", "--delete", "nas:s", "disk:far"],
    ],
)
def test_nothing_is_removed_behind_a_link_that_leads_out(run, nas, tmp_path, words):
    (tmp_path / "elsewhere/in").mkdir(parents=True)
    (tmp_path / "elsewhere/in/x").write_bytes(b"x")
    storages["disk"].save("z/z", ContentFile(b"z"))
    (tmp_path / "disk/far").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "disk/near").symlink_to("z")
    nas.save("s/new", ContentFile(b"new"))
    with pytest.raises(CommandError, match=r"^disk:far.*: a symbolic link leads out of the"):
        run(*words)
    assert (tmp_path / "elsewhere/in/x").read_bytes() == b"x"
    # A link itself is one of the storage's files, and others lead to such.
    run("rm", "disk:near/z", "disk:far")
    assert not (tmp_path / "disk/z/z").exists()
    assert not (tmp_path / "disk/far").is_symlink()


def test_get_stays_in_its_target(run, server, nas, here, tmp_path):
    """Whatever a listing says, and wherever links lead that lie there."""
    with pytest.raises(CommandError, match=r"escaped.txt' leads elsewhere"):
        run("get", "-r", "hostile:", "back")
    assert not list(tmp_path.rglob("escaped*"))
    nas.save("dir/in/x", ContentFile(b"x"))
    nas.save("dir/y", ContentFile(b"y"))
    nas.delete(nas.save("dir/empty/x", ContentFile(b"")))
    (here / "back").mkdir()
    (here / "back/in").symlink_to(tmp_path)
    (tmp_path / "other").mkdir()
    (here / "back/empty").symlink_to(tmp_path / "other")
    with pytest.raises(CommandError) as caught:
        run("get", "-r", "nas:dir/in", "nas:dir/y", "nas:dir/empty", "back")
    assert str(caught.value).count("is a symbolic link; it may lead elsewhere") == 2
    assert (here / "back/y").read_bytes() == b"y"
    assert not (tmp_path / "x").exists()
    # A file's name that is a link is replaced; nothing is written through it.
    (here / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CommandError, match="is there already"):
        run("get", "nas:dir/y", "link")
    run("get", "--force", "nas:dir/y", "link")
    assert not (here / "link").is_symlink()
    assert not (tmp_path / "elsewhere").exists()


def test_failures_do_not_end_the_job(run, nas, here):
    """What could be copied is; the rest is listed, at most twenty, then their number."""
    for number in range(25):
        (here / f"t/{number:02}").write_bytes(b"new")
        nas.save(f"t/{number:02}", ContentFile(b"old"))
    (here / "t/nowhere").symlink_to("missing")
    (here / "t/loop").symlink_to("..")
    os.mkfifo(here / "t/pipe")
    (here / "t/in/a b\nü.txt").unlink()
    with pytest.raises(CommandError) as caught:
        run("put", "-r", "t", "nas:")
    lines = str(caught.value).splitlines()
    assert lines[0] == "28 were not copied:"
    assert {
        "t/loop: is a symbolic link to a directory",
        "t/nowhere: No such file or directory",
        "t/pipe: is no regular file",
    } <= set(lines)
    assert lines[-1] == "and 8 more"
    assert len(lines) == 22
    assert sum(" -> nas:t/" in x and "--force" in x for x in lines) == 17
    assert read(nas, "t/large.bin") == (here / "t/large.bin").read_bytes()
    assert read(nas, "t/07") == b"old"
    with pytest.raises(CommandError, match=r"^missing: No such file or directory$"):
        run("put", "missing", "a.txt", "nas:")
    assert nas.exists("a.txt")


@over_sftp
def test_a_pipe_on_the_server_is_not_waited_for(run, server, nas, here):
    """It would hold up all that goes over its session until the time-out, and fail that, too."""
    nas.save("dir/a", ContentFile(b"a"))
    os.mkfifo(server.root / nas.location / "dir/pipe")
    (server.root / nas.location / "dir/link").symlink_to("pipe")
    lines = ["nas:dir/link: is no regular file", "nas:dir/pipe: is no regular file"]
    for words in (["get", "-r", "nas:dir", "back"], ["cp", "-r", "nas:dir", "nas:copy"]):
        with pytest.raises(CommandError) as caught:
            run(*words)
        assert sorted(str(caught.value).splitlines()[1:]) == lines
    with pytest.raises(CommandError) as caught:
        run("sync", "nas:dir", "disk:")
    assert sorted(str(caught.value).splitlines()[1:]) == lines
    assert (here / "back/a").read_bytes() == read(nas, "copy/a") == read(storages["disk"], "a")
    for words in (["get", "nas:dir/pipe", "pipe"], ["cat", "nas:dir/pipe"]):
        with pytest.raises(CommandError, match=r"^nas:dir/pipe: is no regular file$"):
            run(*words)
    run("rm", "-r", "nas:dir")


def test_a_key_that_is_a_directory_s_name_stays(run, nas, here):
    """In a bucket both can be: what is moved or removed is the directory."""
    for words in (["mv", "bucket:a", "disk:"], ["rm", "-r", "bucket:a"]):
        storages["bucket"].blobs = {"a": b"key", "a/b": b"1", "a/c": b"key", "a/c/d": b"2"}
        if words[0] == "mv":
            del storages["bucket"].blobs["a/c/d"]
        run(*words)
        assert storages["bucket"].blobs == {"a": b"key"}


def test_a_file_where_a_directory_is_needed(run, nas, here):
    nas.save("x", ContentFile(b"x"))
    with pytest.raises(CommandError, match=r"^nas:x -> a.txt/x: a.txt exists and is not a direc"):
        run("get", "nas:x", "a.txt/x")


def test_half_a_file_never_shows(run, nas, here, monkeypatch):
    """The server goes away while a file is read: nothing under its name, nothing left beside it."""
    nas.save("large.bin", ContentFile(os.urandom(LARGE)))
    real = type(nas).open

    def broken(storage, name, mode="rb"):
        file = real(storage, name, mode)
        chunks = file.chunks

        def breaking(size=None):
            yield next(chunks(2**16))
            raise ConnectionResetError(104, "Connection reset by peer")

        file.chunks = breaking
        return file

    monkeypatch.setattr(type(nas), "open", broken)
    for words in (
        ["get", "nas:large.bin", "."],
        *(["cp", "nas:large.bin", f"{x}:"] for x in OTHERS),
    ):
        with pytest.raises(CommandError, match=r"^nas:large.bin -> .*: Connection reset by peer$"):
            run(*words)
    assert not (here / "large.bin").exists()
    for alias in OTHERS:
        assert not storages[alias].exists("large.bin")


def no_links(*args, **kwargs):
    """What os.link() does on some disks."""
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize("link", [os.link, no_links], ids=lambda link: link.__name__)
def test_a_name_that_is_taken_meanwhile_stays_another_s(run, nas, here, monkeypatch, link):
    """It was free when it was looked at, and no longer when the file was whole."""
    monkeypatch.setattr(os, "link", link)
    nas.save("x", ContentFile(b"new"))
    storages["disk"].save("x", ContentFile(b"old"))
    (here / "x").write_bytes(b"old")
    monkeypatch.setattr(Local, "exists", lambda side: False)
    monkeypatch.setattr(Place, "exists", lambda side: side.alias == "nas")
    for words in (["get", "nas:x", "x"], ["cp", "nas:x", "disk:"], ["mv", "nas:x", "disk:"]):
        with pytest.raises(CommandError, match="is there already"):
            run(*words)
    assert (here / "x").read_bytes() == read(storages["disk"], "x") == b"old"
    assert read(nas, "x") == b"new"


def test_a_disk_without_hard_links(run, nas, here, monkeypatch):
    monkeypatch.setattr(os, "link", no_links)
    nas.save("x", ContentFile(b"x"))
    run("get", "nas:x", "y")
    assert (here / "y").read_bytes() == b"x"
    with pytest.raises(CommandError, match="is there already"):
        run("get", "nas:x", "y")


def test_non_utf_8_names_go_there_and_back(run, server, nas, here):
    if server.protocol != "sftp":
        return  # each WebDAV server means something else by them
    name = os.fsdecode(b"caf\xe9.txt")
    (here / "t" / name).write_bytes(b"x")
    run("put", "-r", "t", "nas:")
    run("get", "-r", "nas:t", "back")
    assert (here / "back" / name).read_bytes() == b"x"
    run("rm", f"nas:t/{name}")
    with pytest.raises(CommandError, match="caf\ufffd"):
        run("rm", f"nas:t/{name}")


def test_allow_overwrite_allows_no_more_than_before(run, nas, here):
    """Without --force nothing is replaced, even where the storage's option would allow it."""
    nas.save("a.txt", ContentFile(b"old"))
    nas.__dict__["options"] = {**nas.options, "allow_overwrite": True}
    with pytest.raises(CommandError, match="--force"):
        run("put", "a.txt", "nas:")
    assert read(nas, "a.txt") == b"old"


def test_times_are_kept_by_get(run, server, nas, here):
    nas.save("old", ContentFile(b""))
    os.utime(server.root / nas.location / "old", (THEN, THEN))
    run("get", "nas:old", ".")
    assert (here / "old").stat().st_mtime == THEN
