"""The demo, as a newcomer starts it: in a process of its own, over HTTP, ended by signals."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urljoin
from urllib.request import HTTPCookieProcessor, ProxyHandler, Request, build_opener

import pytest

from netstorage.demo import once
from netstorage.demo.once import BrokenError, Page, Row, Sample, Visitor, _multipart
from netstorage.demo.servers import Server

COMMAND = [sys.executable, "-m", "netstorage.demo"]
HERE = Path(__file__).absolute().parents[1]
DEADLINE = 60
LISTED = 200


def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a demo whose temporary files all lie in one folder."""
    folder = tmp_path / "tmp"
    folder.mkdir(exist_ok=True)
    return os.environ | {
        "TMPDIR": str(folder),
        "PYTHONUTF8": "1",
        "PYTHONWARNINGS": "always::ResourceWarning",
    }


def left_behind(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "tmp").iterdir()]


def descendants(pid: int) -> list[int]:
    """The processes that ``pid`` started, and those that they started."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it ended meanwhile
            continue
        if state != "Z":
            parents[int(stat.parent.name)] = int(parent)
    found = [pid]
    for known in found:
        found += [child for child, parent in parents.items() if parent == known]
    return found[1:]


def running(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


class Site:
    """The demo while it runs."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self.log = log
        self.url = ""
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Site:"):
                self.url = line.split()[1]
                break
        assert self.url, log.read_text()
        self.children = descendants(process.pid)
        self.visitor = Visitor(self.url)

    def kill(self, module: str) -> None:
        """Kill the server that runs ``module``, and no other."""
        (pid,) = (
            pid
            for pid in self.children
            if module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        )
        os.kill(pid, signal.SIGKILL)
        # A zombie no longer listens; its parent reaps it at the end.
        eventually(lambda: pid not in descendants(self.process.pid))

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(DEADLINE)


@contextmanager
def started(tmp_path: Path, *, default_port: bool = False) -> Iterator[Site]:
    log = tmp_path / "stderr"
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            COMMAND if default_port else [*COMMAND, "--port", "0"],
            env=environment(tmp_path),
            cwd=HERE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        try:
            yield Site(process, log)
        finally:
            if process.poll() is None:
                process.terminate()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One site for the tests that leave it as they found it."""
    with started(tmp_path_factory.mktemp("site")) as site:
        yield site
        assert site.end() == 0
        assert_quiet(site)


@pytest.fixture
def own_site(tmp_path: Path) -> Iterator[Site]:
    """A site for a test that ends it, or breaks something."""
    with started(tmp_path) as site:
        yield site


def assert_quiet(site: Site) -> None:
    """Whatever happened, nothing was an accident."""
    log = site.log.read_text()
    bad = "Internal Server Error|Exception (happened|ignored)|Exception in thread|ResourceWarning"
    assert not re.search(bad, log), log


class Browser:
    """Pages as text, with cookies and redirects; failures are pages, too."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.opener = build_opener(ProxyHandler({}), HTTPCookieProcessor())

    def get(self, path: str, body: bytes | None = None, kind: str = "") -> tuple[int, str]:
        request = Request(urljoin(self.url, path), body, {"Content-Type": kind} if kind else {})
        try:
            with self.opener.open(request, timeout=DEADLINE) as response:
                return response.status, response.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def submit(self, path: str, file: Sample, **fields: str) -> tuple[int, str]:
        """Fill in the form that is at ``path``."""
        status, form = self.get(path)
        assert status == 200
        kind, body = _multipart({"csrfmiddlewaretoken": Page(form).token, **fields}, file)
        return self.get(path, body, kind)

    def log_in(self) -> None:
        user = {"username": "demo", "password": "demo", "next": "/admin/"}
        status, page = self.submit("admin/login/", Sample("", b""), **user)
        assert status == 200
        assert "Site administration" in page


# --once


def test_once_moves_every_file_there_and_back(tmp_path: Path) -> None:
    """Uploads, lists, compares and deletes on both servers, readably, and leaves nothing."""
    done = subprocess.run(
        [*COMMAND, "--once"],
        env=environment(tmp_path),
        cwd=HERE,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=DEADLINE,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    steps = re.findall(
        r"^(\w+) +(SFTP|WebDAV) +(\S+) .*\d\.\d{3} s  (.+)$", done.stdout, re.MULTILINE
    )
    for server in ("SFTP", "WebDAV"):
        for name in ("fractal.png", "Grüße.txt", "large.bin"):
            results = {step: result for step, *what, result in steps if what == [server, name]}
            assert list(results) == ["upload", "download", "delete"]
            assert results["download"].startswith("same SHA-256 ")
    assert "20.0 MB" in done.stdout
    lines = done.stdout.splitlines()
    assert lines[-1].startswith("All well")
    assert max(map(len, lines)) < 80
    assert left_behind(tmp_path) == []


def test_once_tells_what_broke(tmp_path: Path) -> None:
    """Servers that die under way: the step is named, the reason too, and nothing is left."""
    with subprocess.Popen(
        [*COMMAND, "--once"],
        env=environment(tmp_path),
        cwd=HERE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("start"):
                break
        for pid in descendants(process.pid):
            os.kill(pid, signal.SIGKILL)
        output, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1
    assert "FAILED" in output
    assert re.search(r"^Broken: \S+", output, re.MULTILINE)
    assert "Traceback" not in output + errors
    assert left_behind(tmp_path) == []


class Forgetful(Visitor):
    def upload(self, server: Server, sample: Sample, token: str) -> Page:
        return self.look()


class Garbling(Visitor):
    def download(self, row: Row) -> str:
        return super().download(row)[::-1]


class Losing(Visitor):
    def download(self, row: Row) -> str:
        return super().download(replace(row, url=f"{row.url}.lost"))


class Keeping(Visitor):
    def delete(self, row: Row, token: str) -> Page:
        return self.look()


class Astray(Visitor):
    def look(self) -> Page:
        self.url = "http://127.0.0.1:1/"
        return super().look()


@pytest.mark.parametrize(
    ("visitor", "told"),
    [
        (Forgetful, "lists as new: []"),
        (Garbling, "came back different"),
        (Losing, "HTTP 403 Forbidden."),
        (Keeping, "is still there"),
        (Astray, "refused"),
    ],
)
def test_once_notices(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    visitor: type[Visitor],
    told: str,
) -> None:
    """What goes wrong on the way is found; a check that cannot fail checks nothing."""
    monkeypatch.setattr(once, "Visitor", visitor)
    try:
        assert once.rehearse(site.url, "", 0, lambda: False) == 1
    finally:
        page = site.visitor.look()
        for row in page.rows:
            site.visitor.delete(row, page.token)
    output = capsys.readouterr().out
    assert "FAILED" in output
    assert told in " ".join(output.partition("Broken: ")[2].split())


def test_once_can_be_interrupted(tmp_path: Path) -> None:
    """Ctrl-C in the middle ends the run and cleans up."""
    with subprocess.Popen(
        [*COMMAND, "--once"],
        env=environment(tmp_path),
        cwd=HERE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("start"):
                break
        children = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=DEADLINE)
    assert (process.returncode, errors) == (1, "")
    assert output.endswith("Broken: Interrupted.\n")
    assert running(children) == []
    assert left_behind(tmp_path) == []


# The site


@pytest.mark.parametrize("server", Server)
def test_page_uploads_lists_downloads_and_deletes(site: Site, server: Server) -> None:
    """The page does its whole job, and shows each pool's numbers."""
    visitor = site.visitor
    page = visitor.upload(server, Sample("a b.txt", b"content"), visitor.look().token)
    (row,) = page.rows
    assert (row.server, row.size) == (server, 7)
    assert re.fullmatch(r"\d{4}/\d\d/a_b\.txt", row.name)
    browser = Browser(site.url)
    assert browser.get(row.url) == (200, "content")
    _, html = browser.get("")
    assert "size=1/4 idle=1 in_use=0" in html
    for number in ("connects", "requests", "closed_broken"):
        assert f"<code>{number}</code>" in html
    assert visitor.delete(row, page.token).rows == []
    assert browser.get(row.url)[0] == 404
    assert browser.get(row.url.partition("?")[0])[0] == 403


def test_page_lists_what_others_put_there(site: Site) -> None:
    """The listing is the server's, not the database's; such a file can be deleted too.

    A name that is not UTF-8 breaks nothing.
    """
    visitor = site.visitor
    page = visitor.upload(Server.SFTP, Sample("marker.txt", b""), visitor.look().token)
    (marker,) = (site.log.parent / "tmp").glob("*/*/*/marker.txt")
    visitor.delete(page.rows[0], page.token)
    root = marker.parents[2]
    (root / "deep").mkdir()
    (root / "deep" / "by hand.txt").write_text("by hand")
    page = visitor.look()
    (row,) = page.rows
    assert (row.name, row.size) == ("deep/by hand.txt", 7)
    assert Browser(site.url).get(row.url) == (200, "by hand")
    assert visitor.delete(row, page.token).rows == []
    assert not (root / "deep" / "by hand.txt").exists()
    undecodable = root / os.fsdecode(b"\xff.txt")
    undecodable.touch()
    status, html = Browser(site.url).get("")
    assert (status, Page(html).rows, Page(html).errors) == (200, [], [])
    assert "not shown" in html
    undecodable.unlink()


def test_page_has_an_end(site: Site) -> None:
    """A folder with very many files is shown in part, and the page says so."""
    visitor = site.visitor
    page = visitor.upload(Server.SFTP, Sample("marker.txt", b""), visitor.look().token)
    (marker,) = (site.log.parent / "tmp").glob("*/*/*/marker.txt")
    others = [marker.with_name(f"{number}.txt") for number in range(LISTED)]
    for other in others:
        other.touch()
    status, html = Browser(site.url).get("")
    assert (status, len(Page(html).rows)) == (200, LISTED)
    assert "not shown" in html
    for other in others:
        other.unlink()
    assert visitor.delete(page.rows[0], page.token).rows == []


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("files/sftp/nothing.txt", 403),
        ("files/ftp/nothing.txt", 404),
        ("files/sftp/..%2f..%2fetc/passwd", 404),
        ("files/webdav/..%2f..%2fetc/passwd", 404),
        ("delete/", 405),
    ],
)
def test_wrong_addresses_are_refused(site: Site, path: str, status: int) -> None:
    """Nothing outside the storages can be read, and nothing is deleted by a link."""
    assert Browser(site.url).get(path)[0] == status


def test_wrong_uploads_are_refused(site: Site) -> None:
    """The form says what is wrong with it."""
    browser = Browser(site.url)
    status, html = browser.submit("", Sample("a.txt", b"a"), server="ftp")
    assert status == 200
    assert "Select a valid choice" in " ".join(Page(html).errors)
    assert Page(html).rows == []


@pytest.mark.parametrize(("server", "model"), [("sftp", "sftpupload"), ("webdav", "webdavupload")])
def test_admin_works_with_the_same_files(site: Site, server: str, model: str) -> None:
    """A file added in the admin is on the page, and gone with its row."""
    browser = Browser(site.url)
    browser.log_in()
    path = f"admin/netstorage_demo/{model}/"
    status, html = browser.submit(f"{path}add/", Sample("admin.txt", b"by hand"), _save="Save")
    assert status == 200
    assert "was added successfully" in html
    (row,) = site.visitor.look().rows
    assert (row.server, row.size) == (server, 7)
    assert browser.get(row.url) == (200, "by hand")
    (number,) = set(re.findall(rf"/{path}(\d+)/change/", browser.get(path)[1]))
    status, html = browser.get(f"{path}{number}/change/")
    assert f'href="{row.url.partition("?")[0]}?' in html
    status, html = browser.submit(f"{path}{number}/delete/", Sample("", b""), post="yes")
    assert status == 200
    assert "was deleted successfully" in html
    assert site.visitor.look().rows == []


@pytest.mark.parametrize(
    ("module", "dead", "alive"),
    [
        ("netstorage.testing._sftp", Server.SFTP, Server.WEBDAV),
        ("netstorage.testing._webdav", Server.WEBDAV, Server.SFTP),
    ],
)
def test_dead_server_is_told_readably(
    own_site: Site, tmp_path: Path, module: str, dead: Server, alive: Server
) -> None:
    """Every page says that a server is away; what is on the other one still works."""
    visitor = own_site.visitor
    sample = Sample("a.txt", b"a")
    for server in Server:
        page = visitor.upload(server, sample, visitor.look().token)
    lost = next(row for row in page.rows if row.server == dead)
    own_site.kill(module)

    browser = Browser(own_site.url)
    status, html = browser.get("")
    assert status == 200
    assert [row.server for row in Page(html).rows] == [alive]
    assert len(Page(html).errors) == 1
    status, html = browser.submit("", sample, server=dead.value)
    assert status == 200
    assert Page(html).errors[0].startswith("Not uploaded. ")
    status, html = browser.submit("", sample, server=alive.value)
    assert len(Page(html).rows) == 2
    with pytest.raises(BrokenError, match=r"^Not deleted\. "):
        visitor.delete(lost, page.token)
    assert browser.get(lost.url) == (503, "The file cannot be had at the moment.")
    browser.log_in()
    status, html = browser.submit(f"admin/netstorage_demo/{dead.value}upload/add/", sample)
    assert (status, len(Page(html).errors)) == (503, 1)
    status, html = browser.submit(
        f"admin/netstorage_demo/{dead.value}upload/1/delete/", Sample("", b""), post="yes"
    )
    assert (status, len(Page(html).errors)) == (503, 1)
    assert browser.get(f"admin/netstorage_demo/{dead.value}upload/1/change/")[0] == 200

    assert own_site.end() == 0
    assert_quiet(own_site)
    assert left_behind(tmp_path) == []


# The end


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_leaves_nothing(own_site: Site, tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C and its kin end everything, with files on the servers and a browser connected."""
    visitor = own_site.visitor
    visitor.upload(Server.SFTP, Sample("a.txt", b"a" * 3_000_000), visitor.look().token)
    assert len(own_site.children) == 2
    address = re.fullmatch(r"http://(.+):(\d+)/", own_site.url)
    assert address
    with socket.create_connection((address[1], int(address[2]))):
        assert own_site.end(number) == 0
    assert running(own_site.children) == []
    assert left_behind(tmp_path) == []
    assert_quiet(own_site)


def test_signal_during_the_start_leaves_nothing(tmp_path: Path) -> None:
    """Impatience is forgiven: a Ctrl-C while the servers start is obeyed a moment later."""
    with subprocess.Popen(
        [*COMMAND, "--port", "0"],
        env=environment(tmp_path),
        cwd=HERE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        eventually(lambda: descendants(process.pid))
        process.send_signal(signal.SIGINT)
        children = descendants(process.pid)
        _, errors = process.communicate(timeout=DEADLINE)
    assert (process.returncode, errors) == (0, "")
    assert running(children) == []
    assert left_behind(tmp_path) == []


# The start


def test_missing_extra_is_named() -> None:
    """Without the extra: one line that says what to install."""
    hide = "import sys, runpy; sys.modules['wsgidav'] = sys.modules['PIL'] = None; "
    start = "runpy.run_module('netstorage.demo', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", hide + start],
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 2
    assert done.stderr == ('The demo needs wsgidav, PIL: pip install "django-netstorage[demo]"\n')
    assert done.stdout == ""


def test_taken_port_is_told(tmp_path: Path) -> None:
    """A port that was asked for is used or refused, never replaced."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [*COMMAND, "--port", str(port)],
            env=environment(tmp_path),
            cwd=HERE,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )
    assert done.returncode == 2
    assert done.stderr == f"The site cannot use port {port}: Address already in use\n"
    assert left_behind(tmp_path) == []


def test_usual_port_may_be_taken(tmp_path: Path) -> None:
    """Without ``--port`` the site finds itself a free one."""

    def take() -> bool:
        try:
            taken.bind(("127.0.0.1", 8000))
        except OSError:
            return False
        taken.listen()
        return True

    with socket.socket() as taken:
        # Another suite beside this one gives it back soon; whoever keeps it serves as well.
        patience = time.monotonic() + 20
        while not take() and time.monotonic() < patience:
            time.sleep(0.05)
        with started(tmp_path, default_port=True) as site:
            assert site.url != "http://127.0.0.1:8000/"
            assert site.visitor.look().rows == []


def test_project_is_in_order(tmp_path: Path) -> None:
    """The migrations are those of the models, without a secret, and the checks have no word."""
    script = f"""
import sys
from pathlib import Path
from netstorage.demo import site
from netstorage.testing import SFTPServer, WebDAVServer
with SFTPServer() as sftp, WebDAVServer() as webdav:
    site.configure(Path({str(tmp_path)!r}), sftp=sftp.options, webdav=webdav.options, quiet=True)
    from django.core.management import call_command
    call_command("makemigrations", check_changes=True, dry_run=True, verbosity=3)
    call_command("check", fail_level="WARNING")
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(tmp_path),
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == ("No changes detected\nSystem check identified no issues (0 silenced).\n")
