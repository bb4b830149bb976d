"""Wrong servers, wrong keys, wrong credentials: one clear error each, in time, without secrets."""

from __future__ import annotations

import base64
import contextlib
import errno
import http.server
import logging
import os
import resource
import secrets
import signal
import socket
import threading
import time
import traceback
from pathlib import Path

import pytest
from django.core.files.base import ContentFile

from netstorage import (
    AuthenticationError,
    ConnectError,
    ConnectionLost,
    HostKeyError,
    SFTPStorage,
    WebDAVStorage,
)
from netstorage.pool import BACKOFF_MIN
from tests.contract.helpers import private_storage, read, temporaries
from tests.servers import SERVERS, make_storage
from tests.servers.apache import Apache
from tests.servers.keeper import descendants
from tests.servers.keys import ssh_key
from tests.servers.nginx import Nginx
from tests.servers.sshd import Sshd

DEADLINE = 1.0
"""Seconds: the options timeout and connect_timeout of every storage here."""
BOUND = 15.0
"""Seconds within which a call must end: not a measure of speed, but against hanging."""


@pytest.fixture
def check(caplog):
    """Checks that every use of a storage fails as it should; see `Check`."""
    caplog.set_level(logging.DEBUG)
    return Check(caplog)


class Check:
    """Uses a storage that cannot work, and looks at what it says."""

    def __init__(self, caplog):
        self._caplog = caplog

    def __call__(self, storage, kind, *words, number=None, secret=()):
        """Every operation raises exactly `kind` with these words, its name and no secret."""
        operations = {
            "dir/asked.txt": storage.exists,
            "dir/saved.txt": lambda name: storage.save(name, ContentFile(b"content")),
            "dir/read.txt": lambda name: read(storage, name),
            "dir/written.txt": lambda name: self._write(storage, name),
            "dir/deleted.txt": storage.delete,
            "dir": storage.listdir,
        }
        for name, operation in operations.items():
            started = time.monotonic()
            with pytest.raises(kind) as caught:
                operation(name)
            assert time.monotonic() - started < BOUND
            error = caught.value
            assert type(error) is kind
            assert error.errno == number
            assert error.filename == name
            text = str(error)
            assert repr(name) in text
            for word in words:
                assert word in text
            others = [other for other in operations if repr(other) in text and other != name]
            assert others == []
            self._without(secret, text, repr(error), "".join(traceback.format_exception(error)))
        self._without(secret, repr(storage), self._caplog.text)
        numbers = storage.pool.stats()
        assert (numbers.in_use, numbers.idle, numbers.waiting, numbers.connecting) == (0, 0, 0, 0)

    @staticmethod
    def _write(storage, name):
        file = storage.open(name, "wb")
        file.write(b"content")
        try:
            file.close()
        finally:
            file.discard()

    @staticmethod
    def _without(secret, *texts):
        for value in secret:
            encoded = base64.b64encode(value.encode()).decode()
            for text in texts:
                assert value not in text
                assert encoded not in text


def sftp(**options):
    return SFTPStorage(
        **{
            "host": "127.0.0.1",
            "username": "somebody",
            "password": "not-a-real-one",
            "host_key": "SHA256:" + "A" * 43,
            "timeout": DEADLINE,
            "connect_timeout": DEADLINE,
            **options,
        }
    )


def webdav(**options):
    return WebDAVStorage(
        **{
            "username": "somebody",
            "password": "not-a-real-one",
            "timeout": DEADLINE,
            "connect_timeout": DEADLINE,
            **options,
        }
    )


def impatient(server, **options):
    return private_storage(server, **{"timeout": 3.0, "connect_timeout": 3.0, **options})


# --- no server, or another -----------------------------------------------------------------------


@pytest.fixture
def refusing_port():
    """A port that is taken, so that nobody else gets it, but not listened on."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture
def unreachable_port():
    """A port whose queue of connections is full, so that the kernel drops what else comes."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@pytest.fixture
def silent_port():
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield listener.getsockname()[1]


def test_a_refused_port(check, refusing_port):
    check(sftp(port=refusing_port), ConnectError, "refuses connections", str(refusing_port), "port")
    url = f"http://127.0.0.1:{refusing_port}/dav/"
    check(webdav(url=url), ConnectError, "refuses connections", url, "url")


def test_an_unreachable_host(check, unreachable_port):
    words = "did not accept a connection within 1 s (connect_timeout)"
    check(sftp(port=unreachable_port), ConnectError, words, str(unreachable_port))
    url = f"http://127.0.0.1:{unreachable_port}/dav/"
    check(webdav(url=url), ConnectError, words, url)


def test_a_silent_host(check, silent_port):
    check(sftp(port=silent_port), ConnectError, "no SSH banner within 1 s (connect_timeout)")
    url = f"http://127.0.0.1:{silent_port}/dav/"
    check(webdav(url=url), ConnectError, "did not go on within 1 s (timeout)", url)
    tls = f"https://127.0.0.1:{silent_port}/dav/"
    words = "did not finish the TLS handshake within 1 s (connect_timeout)"
    check(webdav(url=tls), ConnectError, words, tls)


@pytest.mark.parametrize("protocol", ["sftp", "webdav"])
def test_a_dead_server_costs_one_deadline(protocol, silent_port, monkeypatch):
    """Not one for each request: until the pause is over all others fail at once."""
    if protocol == "sftp":
        storage = sftp(port=silent_port, connect_timeout=0.2)
    else:
        storage = webdav(url=f"http://127.0.0.1:{silent_port}/", timeout=0.2)
    now = time.monotonic()
    monkeypatch.setattr(storage.pool, "_clock", lambda: now)
    for attempts, pause in enumerate((BACKOFF_MIN, 2 * BACKOFF_MIN), start=1):
        for _ in range(50):
            with pytest.raises(ConnectError, match=r"within 0\.2 s \((connect_)?timeout\)"):
                storage.exists("f")
        assert storage.pool.stats().connect_errors == attempts
        now += pause


@pytest.mark.parametrize("host", ["no..such", "x" * 70 + ".example"])
def test_a_host_that_is_no_name(check, host):
    check(sftp(host=host), ConnectError, "cannot be resolved", "option host")
    check(webdav(url=f"http://{host}/"), ConnectError, "option url")


def test_an_http_server_instead_of_ssh(check, webdav_server):
    check(sftp(port=webdav_server.port), ConnectError, "does not answer as an SSH server", "port")


def test_an_ssh_server_instead_of_http(check, sftp_server):
    url = f"http://127.0.0.1:{sftp_server.port}/"
    check(webdav(url=url), ConnectError, url, "cannot be reached", "option url")


def test_a_server_that_hangs_up(check):
    """As sshd does beyond MaxStartups, or where an address is banned."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up():
            with contextlib.suppress(OSError):
                while True:
                    connection = listener.accept()[0]
                    connection.sendall(b"Not allowed at this time\r\n")
                    connection.close()

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        check(sftp(port=port), ConnectError, "does not answer as an SSH server")
        check(webdav(url=f"http://127.0.0.1:{port}/"), ConnectError, "option url")
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_a_server_that_freezes(server, monkeypatch):
    """It was fine, and then says nothing: each call ends by the deadline, and later all is well."""
    freeze, thaw = frozen_container(server) if server.root is None else frozen_processes(server)
    location = f"frozen-{secrets.token_hex(4)}"
    base = server.options.get("location", "")
    storage = impatient(server, location=os.path.join(base, location), timeout=DEADLINE)
    storage.save("file.txt", ContentFile(b"before"))
    freeze()
    try:
        started = time.monotonic()
        with pytest.raises((TimeoutError, ConnectError), match=r"file\.txt") as caught:
            read(storage, "file.txt")
        assert time.monotonic() - started < BOUND
        assert "timeout" in str(caught.value)
        if isinstance(caught.value, TimeoutError):
            assert caught.value.errno == errno.ETIMEDOUT
    finally:
        thaw()
    # Should a connect have failed, the pause after it is over.
    monkeypatch.setattr(storage.pool, "_clock", lambda: time.monotonic() + 60)
    assert read(storage, "file.txt") == b"before"
    assert storage.pool.stats().in_use == 0


def frozen_processes(server):
    stopped = set()

    def freeze():
        # Until no parent is left that could have made another child meanwhile.
        while new := {server.process.pid, *descendants(server.process.pid)} - stopped:
            for pid in new:
                os.kill(pid, signal.SIGSTOP)
            for pid in new:
                wait_until_stopped(pid)
            stopped.update(new)

    def thaw():
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)

    return freeze, thaw


def wait_until_stopped(pid):
    """A signal takes its time to arrive in every thread (proc(5), /proc/PID/stat)."""
    deadline = time.monotonic() + BOUND
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(FileNotFoundError):  # the thread has ended
            while stat.read_text().rpartition(")")[2].split()[0] not in {"T", "Z", "X"}:
                assert time.monotonic() < deadline


def frozen_container(server):
    def run(command):
        return lambda: server._compose.execute(f"{command} {server.service}")

    return run("pause"), run("unpause")


# --- SSH: keys and credentials -------------------------------------------------------------------


class TestHostKeys:
    def test_unknown(self, check, any_sftp):
        storage = impatient(any_sftp, host_key=None)
        shown = any_sftp.options["host_key"].split()[1]
        check(storage, HostKeyError, "is not known", "SHA256:", "host_key=", shown)

    def test_changed(self, check, any_sftp, tmp_path):
        other = " ".join(ssh_key(tmp_path / "other").split()[:2])
        storage = impatient(any_sftp, host_key=other)
        check(storage, HostKeyError, "trust", "SHA256:", "Somebody may be listening", "host_key=")

    def test_changed_in_known_hosts(self, check, any_sftp, tmp_path):
        other = " ".join(ssh_key(tmp_path / "other").split()[:2])
        known = tmp_path / "known_hosts"
        known.write_text(f"[127.0.0.1]:{any_sftp.port} {other}\n")
        storage = impatient(any_sftp, host_key=None, known_hosts=str(known))
        check(storage, HostKeyError, str(known), "SHA256:", "host_key=")

    def test_known_hosts_that_is_missing(self, check, any_sftp, tmp_path):
        known = tmp_path / "nowhere"
        storage = impatient(any_sftp, host_key=None, known_hosts=str(known))
        check(storage, HostKeyError, "known_hosts", str(known), "cannot be read")


class TestLogin:
    def test_wrong_password(self, check, any_sftp):
        options = {"key_filename": None, "password": "Wr0ng-Pa55word"}
        storage = impatient(any_sftp, **options)
        check(
            storage,
            AuthenticationError,
            "refused the login",
            any_sftp.options["username"],
            "password",
            secret=["Wr0ng-Pa55word"],
        )

    def test_unknown_user(self, check, any_sftp):
        storage = impatient(any_sftp, username="nobody-of-that-name")
        check(
            storage,
            AuthenticationError,
            "refused the login of 'nobody-of-that-name'",
            "username",
            secret=[v for v in [any_sftp.options.get("password")] if v],
        )

    def test_no_credentials(self, check, any_sftp, monkeypatch):
        monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
        storage = impatient(any_sftp, password=None, key_filename=None)
        check(storage, AuthenticationError, "nothing to log in", "password", "key_filename")

    def test_missing_key_file(self, check, any_sftp, tmp_path):
        missing = str(tmp_path / "missing")
        storage = impatient(any_sftp, password=None, key_filename=missing)
        check(storage, AuthenticationError, "key_filename", missing, "No such file")

    def test_a_key_that_is_none(self, check, any_sftp, tmp_path):
        path = tmp_path / "key"
        path.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nVGhpcyBpcyBubyBrZXkK\n")
        storage = impatient(any_sftp, password=None, key_filename=str(path))
        check(
            storage, AuthenticationError, "key_filename", "no key", secret=["VGhpcyBpcyBubyBrZXkK"]
        )

    @pytest.mark.parametrize("passphrase", [None, "wr0ng-phrase"])
    def test_encrypted_key(self, check, any_sftp, tmp_path, passphrase):
        path = tmp_path / "encrypted"
        ssh_key(path, passphrase="r1ght-phrase")
        middle = path.read_text().splitlines()[2]
        for options in ({"key_filename": str(path)}, {"private_key": path.read_text()}):
            options = {"password": None, "key_filename": None, **options}
            storage = impatient(any_sftp, passphrase=passphrase, **options)
            check(
                storage,
                AuthenticationError,
                "passphrase",
                secret=["wr0ng-phrase", middle],
            )

    def test_a_key_that_the_server_does_not_know(self, check, any_sftp, tmp_path):
        path = tmp_path / "key"
        ssh_key(path)
        storage = impatient(any_sftp, password=None, key_filename=str(path))
        check(storage, AuthenticationError, "refused the login", "publickey")


@pytest.fixture(scope="module")
def sshd_with(request):
    """Starts an sshd of one's own with lines of configuration."""
    if reason := Sshd.unavailable():
        pytest.skip(reason)
    with contextlib.ExitStack() as stack:
        yield lambda *lines: stack.enter_context(Sshd(extra=lines))


class TestLegacyServers:
    @pytest.mark.parametrize(
        ("line", "name"),
        [("Ciphers aes128-cbc", "aes128-cbc"), ("MACs hmac-sha1\nCiphers aes128-ctr", "hmac-sha1")],
    )
    def test_weak_algorithms_are_refused_until_they_are_allowed(self, check, sshd_with, line, name):
        server = sshd_with(*line.split("\n"))
        check(impatient(server), ConnectError, "no algorithm in common", f'["{name}"]')
        storage = impatient(server, legacy_algorithms=[name])
        storage.save("weak.txt", ContentFile(b"better than nothing"))
        assert read(storage, "weak.txt") == b"better than nothing"

    def test_what_is_gone_for_good(self, check, sshd_with):
        server = sshd_with("KexAlgorithms diffie-hellman-group14-sha1")
        check(impatient(server), ConnectError, "diffie-hellman-group14-sha1", "update the server")


class TestNoSFTP:
    def test_a_shell_that_talks(self, check, sshd_with):
        """A greeting in .bashrc is the classic."""
        server = sshd_with("ForceCommand echo Welcome to this server, dear friend of SFTP; cat")
        check(impatient(server), ConnectError, "SFTP")

    def test_a_login_without_sftp(self, check, sshd_with):
        check(impatient(sshd_with("ForceCommand /bin/false")), ConnectError, "SFTP")


# --- WebDAV: credentials, TLS and URLs -----------------------------------------------------------


class TestCredentials:
    def test_wrong_password(self, check, any_webdav):
        user = any_webdav.options["username"]
        storage = impatient(any_webdav, password="Wr0ng-Pa55word")
        secret = ["Wr0ng-Pa55word", f"{user}:Wr0ng-Pa55word"]
        check(storage, AuthenticationError, "401", "password", secret=secret)

    def test_no_credentials(self, check, any_webdav):
        storage = impatient(any_webdav, username=None, password=None)
        check(storage, AuthenticationError, "401", "username")

    def test_wrong_token(self, check, any_webdav):
        storage = impatient(any_webdav, username=None, password=None, token="Wr0ng-T0ken")
        check(storage, AuthenticationError, "401", "token", secret=["Wr0ng-T0ken"])

    def test_wrong_digest(self, check):
        if reason := Apache.unavailable():
            pytest.skip(reason)
        with Apache(auth="digest") as server:
            storage = impatient(server, password="Wr0ng-Pa55word")
            check(storage, AuthenticationError, "401", "auth", secret=["Wr0ng-Pa55word"])


@pytest.fixture(scope="module")
def apache():
    if reason := Apache.unavailable():
        pytest.skip(reason)
    with Apache(tls=True) as server:
        yield server


class TestTLS:
    def test_a_certificate_that_nobody_vouches_for(self, check, apache):
        secret = [apache.options["password"]]
        check(impatient(apache, verify=True), ConnectError, "TLS", "option verify", secret=secret)
        trusting = impatient(apache)
        trusting.save("tls.txt", ContentFile(b"private"))
        assert read(trusting, "tls.txt") == b"private"
        assert read(impatient(apache, verify=False), "tls.txt") == b"private"

    def test_a_certificate_of_another_host(self, check, apache):
        url = apache.options["url"].replace("127.0.0.1", "localhost.localdomain")
        address = ("127.0.0.1", apache.port)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(socket, "create_connection", redirected(address))
            check(impatient(apache, url=url), ConnectError, "TLS", "mismatch", "option url")

    def test_ca_that_is_missing_or_none(self, check, apache, tmp_path):
        missing = str(tmp_path / "missing.pem")
        check(impatient(apache, verify=missing), ConnectError, "verify", missing)
        none = tmp_path / "none.pem"
        none.write_text("this is no certificate")
        check(impatient(apache, verify=str(none)), ConnectError, "verify", str(none))

    def test_http_where_https_is_spoken(self, check, apache):
        url = apache.options["url"].replace("https:", "http:")
        check(impatient(apache, url=url), ConnectError, url)

    def test_https_where_http_is_spoken(self, check, any_webdav):
        url = any_webdav.options["url"].replace("http:", "https:")
        if url == any_webdav.options["url"]:
            return  # a server of the other kind
        check(impatient(any_webdav, url=url), ConnectError, url, "TLS", "option url")

    def test_a_client_certificate_that_is_asked_for(self, check):
        if reason := Apache.unavailable():
            pytest.skip(reason)
        with Apache(client_certificate=True) as server:
            check(impatient(server, cert=None), ConnectError, "TLS", "option cert")
            check(impatient(server, cert="/nowhere.pem"), ConnectError, "cert", "/nowhere.pem")
            storage = impatient(server)
            storage.save("cert.txt", ContentFile(b"known"))
            assert read(storage, "cert.txt") == b"known"


def redirected(address):
    original = socket.create_connection

    def connect(_, *args, **kwargs):
        return original(address, *args, **kwargs)

    return connect


class TestURL:
    def test_a_folder_that_does_not_exist(self, check, any_webdav):
        url = any_webdav.options["url"] + "no/such/folder/"
        secret = [any_webdav.options["password"]]
        check(impatient(any_webdav, url=url), ConnectError, url, "404", "option url", secret=secret)

    def test_a_file(self, check, any_webdav):
        storage = impatient(any_webdav)
        name = storage.save(f"{secrets.token_hex(4)}.txt", ContentFile(b"a file"))
        url = any_webdav.options["url"] + name
        # lighttpd forbids what Apache calls a bad request.
        kind = AuthenticationError if any_webdav.name == "lighttpd" else ConnectError
        check(impatient(any_webdav, url=url), kind, url, "option", "url")
        assert read(storage, name) == b"a file"

    @pytest.mark.parametrize(
        ("answer", "words"),
        [
            ((200, "<html><p>Welcome</p></html>", {}), ["does not answer as a WebDAV server"]),
            ((207, "<html><p>Welcome</p></html>", {}), ["does not answer as a WebDAV server"]),
            ((207, "<multistatus", {}), ["does not answer as a WebDAV server", "XML"]),
            ((207, '<!DOCTYPE x [<!ENTITY e "e">]><x>&e;</x>', {}), ["WebDAV"]),
            ((207, "", {}), ["does not answer as a WebDAV server"]),
            ((403, "no", {}), ["403"]),
            ((500, "oops", {}), ["500", "does not answer as a WebDAV server"]),
            ((503, "later", {}), ["503"]),
            (
                (302, "", {"Location": "https://elsewhere.example/login?next=/"}),
                ["302", "https://elsewhere.example/login", "not followed", "option url"],
            ),
            ((301, "", {"Location": "/other/"}), ["301", "/other/", "option url"]),
            ((301, "", {}), ["301"]),
        ],
        ids=[
            "html",
            "html-207",
            "broken-xml",
            "doctype",
            "empty",
            "forbidden",
            "error",
            "busy",
            "other-host",
            "other-path",
            "nowhere",
        ],
    )
    def test_an_answer_that_is_none(self, check, answer, words):
        with answering(*answer) as (url, asked):
            kind = AuthenticationError if answer[0] == 403 else ConnectError
            secret = ["S3cret-Passw0rd"]
            check(webdav(url=url, password=secret[0]), kind, url, *words, secret=secret)
        # Nobody else was asked, and nothing but the first question.
        assert set(asked) == {"PROPFIND"}

    def test_a_site_without_webdav(self, caplog):
        """It may be nginx without PROPFIND: that shows at the first upload."""
        with answering(405, "no", {}) as (url, _):
            storage = webdav(url=url)
            with pytest.raises(OSError, match="option url") as caught:
                storage.save("file.txt", ContentFile(b"x"))
            assert caught.value.errno == errno.ENOTSUP
            assert "'file.txt'" in str(caught.value)
            assert storage.pool.stats().in_use == 0


@contextlib.contextmanager
def answering(status, body, headers):
    """A web server that answers everything in one way; gives its URL and the methods asked."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self):
            self.raw_requestline = self.rfile.readline(65537)
            if not self.raw_requestline or not self.parse_request():
                self.close_connection = True
                return
            asked.append(self.command)
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            data = b"" if self.command == "HEAD" else body.encode()
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as site:
        site.daemon_threads = True
        thread = threading.Thread(target=site.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{site.server_address[1]}/dav/", asked
        finally:
            site.shutdown()
            thread.join()


# --- limits --------------------------------------------------------------------------------------


def test_a_body_that_is_too_large_for_nginx(caplog):
    if reason := Nginx.unavailable():
        pytest.skip(reason)
    with Nginx(client_max_body_size=1000) as server:
        storage = impatient(server)
        with pytest.raises(OSError, match="413") as caught:
            storage.save("big.bin", ContentFile(bytes(100_000)))
        assert caught.value.errno == errno.EFBIG
        assert caught.value.filename == "big.bin"
        assert storage.save("small.bin", ContentFile(bytes(1000))) == "small.bin"
        assert temporaries(server, storage) == []
        assert storage.listdir("") == ([], ["small.bin"])


def test_a_body_that_is_too_large_for_apache():
    if reason := Apache.unavailable():
        pytest.skip(reason)
    with Apache(extra=["LimitRequestBody 1000"]) as server:
        storage = impatient(server)
        with pytest.raises(OSError, match="413") as caught:
            storage.save("big.bin", ContentFile(bytes(100_000)))
        assert caught.value.errno == errno.EFBIG
        assert storage.listdir("") == ([], [])
        assert temporaries(server, storage) == []


@pytest.mark.parametrize("name", ["embedded-sftp", "sshd"])
def test_a_limit_like_a_quota(name):
    """The disk has room, and yet the server may not write more: RLIMIT_FSIZE stands for a quota."""
    if reason := SERVERS[name].unavailable():
        pytest.skip(reason)
    with SERVERS[name]() as server:
        for pid in [server.process.pid, *descendants(server.process.pid)]:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (50_000, 50_000))
        storage = impatient(server)
        # OpenSSH writes what it can of one request, and is killed at the next.
        size = 100_000 if name == "sshd" else 2**20
        with pytest.raises(OSError, match="quota") as caught:
            storage.save("big.bin", ContentFile(bytes(size)))
        assert caught.value.errno == errno.EDQUOT
        assert caught.value.filename == "big.bin"
        assert list(server.root.iterdir()) == []
        assert storage.save("small.bin", ContentFile(bytes(1000))) == "small.bin"


def test_a_server_that_is_killed_by_its_limit():
    """Its half file is removed all the same, over another session."""
    if reason := Sshd.unavailable():
        pytest.skip(reason)
    with Sshd() as server:
        for pid in descendants(server.process.pid):
            # What answered the question whether it is up may just end.
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (50_000, 50_000))
        storage = impatient(server)
        with pytest.raises(ConnectionLost, match=r"big\.bin"):
            storage.save("big.bin", ContentFile(bytes(2**20)))
        assert list(server.root.iterdir()) == []
        assert storage.save("small.bin", ContentFile(bytes(1000))) == "small.bin"


def test_a_server_that_only_lets_read():
    if reason := Sshd.unavailable():
        pytest.skip(reason)
    with Sshd(sftp_arguments="-R") as server:
        (server.root / "kept.txt").write_text("kept")
        storage = make_storage(server)
        for change in (
            lambda: storage.save("new.txt", ContentFile(b"new")),
            lambda: storage.save("dir/new.txt", ContentFile(b"new")),
            lambda: storage.delete("kept.txt"),
        ):
            with pytest.raises(PermissionError) as caught:
                change()
            assert caught.value.errno == errno.EACCES
        assert read(storage, "kept.txt") == b"kept"
        assert [path.name for path in server.root.iterdir()] == ["kept.txt"]


def test_a_server_that_only_lets_look():
    if reason := Apache.unavailable():
        pytest.skip(reason)
    extra = ["<LocationMatch />", "<LimitExcept GET PROPFIND>", "Require all denied"]
    with Apache(auth=None, extra=[*extra, "</LimitExcept>", "</LocationMatch>"]) as server:
        (server.root / "kept.txt").write_text("kept")
        storage = impatient(server)
        for name, change in {
            "new.txt": lambda name: storage.save(name, ContentFile(b"new")),
            "dir/new.txt": lambda name: storage.save(name, ContentFile(b"new")),
            "kept.txt": storage.delete,
        }.items():
            with pytest.raises(PermissionError, match="403") as caught:
                change(name)
            assert caught.value.errno == errno.EACCES
            assert caught.value.filename == name
        assert read(storage, "kept.txt") == b"kept"
        assert [path.name for path in server.root.iterdir()] == ["kept.txt"]
