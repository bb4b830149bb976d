"""netstorage.testing: servers that start at once, show their files, and leave nothing behind."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import httpx
import paramiko
import pytest

from netstorage.testing import EmbeddedServer, SFTPServer, WebDAVServer, _server

ROOT = Path(__file__).parents[1]

both = pytest.mark.parametrize("server_class", [SFTPServer, WebDAVServer])


def put_and_list(server: EmbeddedServer, name: str, content: bytes = b"theirs") -> set[str]:
    """Write a file through the protocol and list the root, without netstorage's storages."""
    options = server.options
    if isinstance(server, WebDAVServer):
        auth = (options["username"], options["password"])
        with httpx.Client(auth=auth, base_url=options["url"]) as client:
            assert client.put(name, content=content).is_success
            listing = client.request("PROPFIND", "", headers={"Depth": "1"})
            assert listing.status_code == 207
            return {path.name for path in server.root.iterdir() if path.name in listing.text}
    with sftp(server) as transport:
        transport.auth_password(options["username"], options["password"])
        client = paramiko.SFTPClient.from_transport(transport)
        assert client is not None
        client.open(name, "wb").write(content)
        return set(client.listdir("."))


def sftp(server: SFTPServer) -> paramiko.Transport:
    """A connection before authentication, the host key verified."""
    transport = paramiko.Transport((server.host, server.port))
    transport.start_client(timeout=10)
    key = transport.get_remote_server_key()
    assert server.options["host_key"] == f"{key.get_name()} {key.get_base64()}"
    return transport


def gone(pid: int) -> bool:
    """Whether a process has ended, reaped or not."""
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], stdout=subprocess.PIPE)
    return done.stdout.strip()[:1] in (b"", b"Z")


def eventually(condition, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not within the deadline"
        time.sleep(0.02)


@both
def test_files_go_both_ways(server_class):
    with server_class() as server:
        (server.root / "ours.txt").write_bytes(b"ours")
        assert put_and_list(server, "theirs.txt") == {"ours.txt", "theirs.txt"}
        assert (server.root / "theirs.txt").read_bytes() == b"theirs"


@both
def test_it_listens_on_this_machine_only(server_class):
    with server_class() as server:
        assert server.host == "127.0.0.1"
        assert server.port
        with pytest.raises(ConnectionRefusedError):
            # Another address of the same loopback interface.
            socket.create_connection(("127.0.0.2", server.port), timeout=5)


@both
def test_stop_leaves_nothing(server_class):
    server = server_class().start()
    root, process = server.root, server.process
    assert root.is_dir()
    server.stop()
    assert process.returncode == 0
    assert not root.exists()
    server.stop()  # twice is fine
    with pytest.raises(RuntimeError, match="no folder before it is started"):
        _ = server.root


@both
def test_a_given_root_stays(server_class, tmp_path):
    with server_class(tmp_path) as server:
        assert server.root == tmp_path
        assert put_and_list(server, "kept.txt") == {"kept.txt"}
    assert (tmp_path / "kept.txt").read_bytes() == b"theirs"


@both
def test_a_stopped_server_starts_anew(server_class):
    server = server_class()
    with server:
        put_and_list(server, "old.txt")
    with server:
        assert put_and_list(server, "new.txt") == {"new.txt"}


@both
def test_restart_keeps_port_keys_and_files(server_class):
    with server_class() as server:
        put_and_list(server, "before.txt")
        options, process = server.options, server.process
        server.restart()
        assert server.options == options
        assert server.process.pid != process.pid
        assert put_and_list(server, "after.txt") == {"before.txt", "after.txt"}


@both
def test_restart_breaks_connections(server_class):
    with server_class() as server:
        connection = socket.create_connection((server.host, server.port), timeout=5)
        server.restart()
        # Closed or reset: it depends on whether the server had taken the connection yet.
        with connection, contextlib.suppress(ConnectionResetError):
            received = b"."
            while received:  # a banner may have come first
                received = connection.recv(1024)


@both
def test_kill_and_start_again(server_class):
    with server_class() as server:
        put_and_list(server, "before.txt")
        options, root = server.options, server.root
        server.kill()
        assert server.process is None
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((server.host, server.port), timeout=5)
        server.start()
        assert server.options == options
        assert put_and_list(server, "after.txt") == {"before.txt", "after.txt"}
        server.kill()
    assert not root.exists()


@both
def test_many_at_once(server_class):
    with server_class() as one, server_class() as two:
        assert one.port != two.port
        assert one.options["password"] != two.options["password"]
        assert put_and_list(one, "one.txt") == {"one.txt"}
        assert put_and_list(two, "two.txt") == {"two.txt"}


def test_every_sftp_server_has_a_host_key_of_its_own():
    assert SFTPServer().host_key != SFTPServer().host_key


def test_sftp_refuses_a_wrong_password():
    with SFTPServer() as server:
        for username, password in [(server.username, "wrong"), ("someone", server.password)]:
            transport = sftp(server)
            with transport, pytest.raises(paramiko.AuthenticationException):
                transport.auth_password(username, password)


def test_sftp_takes_authorized_keys(tmp_path):
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True
    )
    public = (tmp_path / "key.pub").read_text()
    key = paramiko.Ed25519Key.from_private_key_file(str(tmp_path / "key"))
    with SFTPServer(authorized_keys=public) as server, sftp(server) as transport:
        transport.auth_publickey(server.username, key)
        assert transport.is_authenticated()
    with SFTPServer() as server, sftp(server) as transport:  # noqa: SIM117
        with pytest.raises(paramiko.AuthenticationException):
            transport.auth_publickey(server.username, key)


def test_sftp_clients_cannot_leave_the_root():
    with SFTPServer() as server, sftp(server) as transport:
        transport.auth_password(server.username, server.password)
        client = paramiko.SFTPClient.from_transport(transport)
        assert client is not None
        assert client.listdir("/") == []
        assert client.listdir("/../..") == []
        with pytest.raises(FileNotFoundError):
            client.stat("/etc/passwd")


def test_webdav_wants_the_password():
    with WebDAVServer() as server:
        assert httpx.get(server.url).status_code == 401
        assert httpx.get(server.url, auth=(server.username, "wrong")).status_code == 401
        digest = httpx.DigestAuth(server.username, server.password)
        assert httpx.put(f"{server.url}a.txt", content=b"a", auth=digest).is_success


@pytest.mark.parametrize("path", ["%2e%2e/etc/passwd", "a/%2e%2e/b", "%ff"])
def test_webdav_refuses_bad_paths(webdav_server, path):
    server = webdav_server
    response = httpx.put(server.url + path, content=b"a", auth=(server.username, server.password))
    assert response.status_code == 400


@both
def test_starting_twice_is_an_error(server_class):
    with server_class() as server, pytest.raises(RuntimeError, match="running already"):
        server.start()


@both
def test_a_root_that_does_not_exist(server_class, tmp_path):
    with pytest.raises(NotADirectoryError, match="no such folder"):
        server_class(tmp_path / "absent").start()


@both
def test_a_taken_port_is_told(server_class, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = server_class()
        server.port = taken.getsockname()[1]
        with pytest.raises(RuntimeError, match=r"did not start: it ended\.\n.*in use"):
            server.start()
    assert server.process is None
    assert not list(tmp_path.iterdir())


def test_a_child_that_dies_shows_its_last_words(monkeypatch):
    monkeypatch.setattr(SFTPServer, "module", "netstorage.testing.absent")
    with pytest.raises(RuntimeError, match=r"No module named netstorage\.testing\.absent"):
        SFTPServer().start()


def test_a_child_that_is_silent_is_not_waited_for(monkeypatch, tmp_path):
    (tmp_path / "silent.py").write_text("import sys; sys.stdin.read()")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(SFTPServer, "module", "silent")
    with pytest.raises(RuntimeError, match=r"no answer within 0\.5 s"):
        SFTPServer(startup_timeout=0.5).start()


def test_a_child_that_does_not_stop_is_killed(monkeypatch):
    monkeypatch.setattr(_server, "STOP_SECONDS", 0.3)
    server = SFTPServer().start()
    process, root = server.process, server.root
    process.send_signal(signal.SIGSTOP)
    server.stop()
    assert process.returncode == -signal.SIGKILL
    assert not root.exists()


@both
def test_a_slow_client_does_not_delay_the_end(server_class):
    """A connection in the middle of a request is cut, not waited for."""
    with server_class() as server:
        connection = socket.create_connection((server.host, server.port), timeout=5)
        connection.sendall(b"PUT /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
        started = time.monotonic()
    assert time.monotonic() - started < _server.STOP_SECONDS
    connection.close()


@both
def test_missing_packages_name_the_extra(server_class, monkeypatch):
    def find_spec(name, package=None):
        return None if name in server_class.requires else importlib.util.find_spec(name, package)

    monkeypatch.setattr(_server, "find_spec", find_spec)
    with pytest.raises(ImportError, match=r"install django-netstorage\[testing\]"):
        server_class()


@both
def test_repr_tells_the_state_and_no_secret(server_class):
    server = server_class()
    assert "stopped" in repr(server)
    with server:
        assert f"127.0.0.1:{server.port} pid {server.process.pid}" in repr(server)
        assert server.password not in repr(server)


@both
def test_no_process_list_shows_the_password(server_class):
    with server_class() as server:
        listing = subprocess.run(["ps", "-Awwo", "args"], stdout=subprocess.PIPE, text=True).stdout
        assert server.module in listing
        assert server.password not in listing


@both
def test_sigint_is_for_the_parent(server_class):
    with server_class() as server:
        server.process.send_signal(signal.SIGINT)
        assert put_and_list(server, "still.txt") == {"still.txt"}


@both
def test_sigterm_stops_the_server(server_class):
    with server_class() as server:
        root = server.root
        server.process.terminate()
        assert server.process.wait(5) == 0
        # Its parent lives, and may want to look at the files.
        assert root.exists()
    assert not root.exists()


PARENT = """
import json, sys
from netstorage.testing import SFTPServer, WebDAVServer
sftp, webdav = SFTPServer().start(), WebDAVServer().start()
print(json.dumps([sftp.process.pid, webdav.process.pid]), flush=True)
"""


def parent(tmp_path: Path, code: str, **options) -> subprocess.Popen[str]:
    """A Python process that starts both servers, with their folders in `tmp_path`."""
    return subprocess.Popen(
        [sys.executable, "-c", PARENT + textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        text=True,
        **options,
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_parent_leaves_nothing(tmp_path, number):
    with parent(tmp_path, "sys.stdin.read()") as process:
        children = json.loads(process.stdout.readline())
        assert len(list(tmp_path.iterdir())) == 2
        process.send_signal(number)
    eventually(lambda: all(map(gone, children)))
    eventually(lambda: not list(tmp_path.iterdir()))


def test_ctrl_c_leaves_nothing(tmp_path):
    """Ctrl-C goes to the whole process group; the parent stops the servers in its own time."""
    code = """
    import httpx, time
    try:
        print("ready", flush=True)
        # Not one long wait: a signal just before it would be seen only at its end.
        while True:
            time.sleep(0.05)
    except KeyboardInterrupt:
        print(httpx.get(webdav.url).status_code, flush=True)
    finally:
        sftp.stop()
        webdav.stop()
    """
    with parent(tmp_path, code, start_new_session=True) as process:
        children = json.loads(process.stdout.readline())
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout.readline() == "401\n"
    assert process.returncode == 0
    assert all(map(gone, children))
    assert not list(tmp_path.iterdir())


def test_a_parent_that_just_ends_leaves_nothing(tmp_path):
    with parent(tmp_path, "sys.exit(3)", stderr=subprocess.DEVNULL) as process:
        children = json.loads(process.stdout.readline())
    assert process.returncode == 3
    eventually(lambda: all(map(gone, children)))
    eventually(lambda: not list(tmp_path.iterdir()))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_fork_does_not_stop_its_parents_server():
    with WebDAVServer() as server:
        pid = os.fork()
        if pid == 0:
            server.stop()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert httpx.get(server.url).status_code == 401


def test_nothing_is_printed(capfd):
    for server_class in (SFTPServer, WebDAVServer):
        with server_class() as server:
            put_and_list(server, "a.txt")
            with socket.create_connection((server.host, server.port)) as connection:
                connection.sendall(b"nonsense\r\n\r\n")
    assert capfd.readouterr() == ("", "")


def test_warnings_of_the_suite_are_not_the_servers(monkeypatch):
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    with SFTPServer() as one, WebDAVServer() as two:
        assert put_and_list(one, "a.txt") == put_and_list(two, "a.txt") == {"a.txt"}


def test_from_any_folder_and_thread(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = []

    def use() -> None:
        with SFTPServer() as server:
            found.append(put_and_list(server, "a.txt"))

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [{"a.txt"}] * 3


SUITE = """
import pytest
from django.core.files.base import ContentFile

pytest_plugins = ["netstorage.testing.fixtures"]

@pytest.mark.parametrize("time", [1, 2])
def test_each_test_has_a_folder_of_its_own(sftp_storage, webdav_storage, time):
    for storage in (sftp_storage, webdav_storage):
        assert storage.listdir("") == ([], [])
        assert storage.save("a.txt", ContentFile(b"hello")) == "a.txt"
        assert storage.open("a.txt").read() == b"hello"

def test_the_servers_are_there_too(sftp_server, webdav_server):
    for server in (sftp_server, webdav_server):
        assert len(list(server.root.glob("*/a.txt"))) == 2
"""


def test_a_users_suite_with_our_fixtures(tmp_path):
    """What the documentation shows, run by a pytest of its own."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "conftest.py").write_text(
        "import django\nfrom django.conf import settings\n"
        'settings.configure(USE_TZ=True, MEDIA_URL="/media/")\ndjango.setup()\n'
    )
    (tmp_path / "test_suite.py").write_text(SUITE)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "DJANGO_"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:django", "-p", "no:cacheprovider", "."],
        cwd=tmp_path,
        env=kept | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_our_own_fixtures(sftp_server, webdav_server, sftp_storage, webdav_storage):
    for server in (sftp_server, webdav_server):
        assert server.process.poll() is None
        assert len(list(server.root.glob("test-*"))) >= 1
