"""``manage.py netstorage check``: the whole way, on servers that are well and on bad ones.

A bad set-up fails at its own step, says what to do in a line, and leaves nothing on the server.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import FileSystemStorage, Storage, storages
from django.core.management import CommandError, call_command
from django.test import override_settings

from netstorage import ConnectError
from netstorage.console.check import look_at
from netstorage.console.findings import Finding, Step, lines, walk
from netstorage.health import check_health
from netstorage.sftp import frames
from tests.servers import fresh_location
from tests.servers.apache import Apache
from tests.servers.base import START_SECONDS, free_port
from tests.servers.keys import Authority, ssh_key
from tests.servers.nginx import Nginx
from tests.servers.proftpd import Proftpd
from tests.servers.scripted import Deaf, Proxy, attributes, data, frame, on
from tests.servers.scripted_http import MemoryDAV, ScriptedHTTP
from tests.servers.sshd import Sshd
from tests.test_secrets import LOCKED, OTHER_PEM, forms

FEW_SERVERS = True

ROOT = Path(__file__).parents[2]
WRONG = "Wr0ng-Pa55word"
SFTP = ["settings", "name", "tcp", "ssh", "algorithms", "host key", "login", "session"]
WEBDAV = ["settings", "name", "tcp", "tls", "login", "session"]
THERE = ["root", "round trip", "space", "write", "clock", "ranges", "publish", "replace"]
ELSEWHERE = ["save", "read", "delete"]
THERE += ["upload", "download", "delete", "sessions"]


@dataclass
class Report:
    """What ``check`` wrote, and its exit status."""

    status: int
    text: str

    @property
    def failed(self) -> list[str]:
        return re.findall(r"^FAIL  (\w+(?: \w+)?)", self.text, re.MULTILINE)

    @property
    def noted(self) -> list[str]:
        return re.findall(r"^note  (\w+(?: \w+)?)", self.text, re.MULTILINE)

    @property
    def flat(self) -> str:
        """The text without its line breaks."""
        return re.sub(r"\s+", " ", self.text)


@contextmanager
def alias(backend: str, options: dict[str, Any]) -> Iterator[None]:
    """The alias ``nas``."""
    with override_settings(STORAGES={"nas": {"BACKEND": backend, "OPTIONS": options}}):
        yield


def run(*words: str) -> tuple[int, str]:
    out = StringIO()
    try:
        call_command("netstorage", "check", "nas", *words, stdout=out)
    except SystemExit as ended:
        return int(ended.code or 0), out.getvalue()
    return 0, out.getvalue()


def report(protocol: str, options: dict[str, Any]) -> Report:
    """Check a storage, and what is true of every report."""
    with alias(f"netstorage.{'SFTP' if protocol == 'sftp' else 'WebDAV'}Storage", options):
        status, text = run()
    assert all(len(line) <= 80 and line.isprintable() for line in text.splitlines())
    assert all(re.match(r"ok    |note  |FAIL  |skip  |      ", x) for x in text.splitlines())
    for name in ("password", "token", "passphrase", "private_key"):
        if isinstance(secret := options.get(name), str):
            assert not any(form in text for line in secret.splitlines() for form in forms(line))
    found = Report(status, text)
    assert status == int(bool(found.failed))
    return found


def fails(protocol: str, options: dict[str, Any], step: str, *told: str) -> Report:
    """Check a bad set-up: it fails at this step alone, and says this."""
    found = report(protocol, options)
    assert found.failed == [step], found.text
    for each in told:
        assert each in found.flat
    after = re.search(r"^FAIL  .*(\n {9,}.*)*\n(.*)", found.text, re.MULTILINE)
    assert after[2].startswith("      -> "), "no remedy"
    return found


def inventory(root: Path) -> dict[str, bytes]:
    """All that lies on the server, hidden or not."""
    return {str(p.relative_to(root)): p.is_file() and p.read_bytes() for p in root.rglob("*")}


@contextmanager
def untouched(server: Any) -> Iterator[None]:
    """Nothing comes to be, and nothing goes."""
    before = inventory(server.root)
    yield
    assert inventory(server.root) == before


@pytest.fixture
def start() -> Iterator[Any]:
    """Starts a server of this test's own."""
    with ExitStack() as stack:

        def started(server: Any) -> Any:
            unavailable = getattr(server, "unavailable", lambda: None)()
            if unavailable:
                pytest.skip(f"{type(server).__name__}: {unavailable}")
            return stack.enter_context(server)

        yield started


@pytest.fixture(scope="module")
def sshd(request, running_servers) -> Sshd:
    return running_servers.get("sshd", request)


@pytest.fixture(scope="module")
def apache(request, running_servers) -> Apache:
    return running_servers.get("apache", request)


# --- all is well ----------------------------------------------------------------------------------


def test_a_good_set_up(server):
    location = fresh_location(server)
    options = {**server.options, "location": location}
    folder = server.root / Path(location).name
    folder.mkdir()
    with untouched(server):
        found = report(server.protocol, options)
    assert found.status == 0, found.text
    assert found.noted == [], found.text
    with alias(f"netstorage.{'SFTP' if server.protocol == 'sftp' else 'WebDAV'}Storage", options):
        status, text = run("--json")
    objects = json.loads(text)
    assert status == 0
    steps = (SFTP if server.protocol == "sftp" else WEBDAV) + THERE
    assert [each["step"] for each in objects] == steps
    for each in objects:
        assert list(each) == ["step", "status", "found", "seconds", "remedy"]
        assert each["status"] == "ok"
        assert each["found"]
        assert each["seconds"] >= 0
        assert each["remedy"] == ""
    told = {each["step"]: each["found"] for each in objects}
    assert told["name"] == "127.0.0.1"
    assert told["root"] == f"{location} exists"
    assert re.fullmatch(r"the \d hidden files of this check are gone", told["delete"])
    assert f"{4} at the same time" in told["sessions"]
    assert re.fullmatch(r"[\d.]+ .?i?B/s \(\d[\d.]* .iB\)", told["upload"])


def test_a_root_that_the_first_save_will_make(server):
    location = f"{fresh_location(server)}/media"
    with untouched(server):
        found = report(server.protocol, {**server.options, "location": location})
    assert found.noted[0] == "root"
    assert f"{location} does not exist" in found.flat
    assert "The first save makes it" in found.flat
    assert found.status == 0


def test_what_an_openssh_tells(sshd):
    found = report("sftp", sshd.options).flat
    assert "SSH-2.0-OpenSSH_" in found
    assert re.search(r"algorithms \S+, ssh-ed25519, aes128-gcm@openssh.com", found)
    assert re.search(r"host key ssh-ed25519 SHA256:\S{43}, trusted by the option host_key", found)
    assert f"{sshd.username!r} by publickey" in found
    assert "posix-rename@openssh.com, statvfs@openssh.com" in found
    assert "RENAME, which this server refuses for a taken name" in found
    assert "posix-rename@openssh.com, atomically" in found
    free = os.statvfs(sshd.root)
    amount = re.search(r"space (\S+) (.)iB free", found)
    bytes_free = float(amount[1]) * 1024 ** " KMGT".index(amount[2])
    assert bytes_free == pytest.approx(free.f_frsize * free.f_bavail, rel=0.1)


def test_what_an_apache_tells(apache):
    found = report("webdav", apache.options).flat
    assert "tls none: plain HTTP" in found
    assert f"{apache.username!r} by basic authentication" in found
    assert re.search(r"session Apache\S* .*; DAV 1, 2.*; allows OPTIONS,.*PROPFIND", found)
    assert "MOVE with Overwrite: F" in found


@pytest.mark.parametrize(
    ("name", "confined", "status", "told"),
    [
        ("proftpd", False, "ok", "hardlink@openssh.com, which no server makes over a taken name"),
        ("proftpd", True, "ok", "hardlink@openssh.com, which no server makes over a taken name"),
        ("rclone-sftp", False, "note", "RENAME after a look: this server may overwrite"),
    ],
)
def test_what_else_keeps_names_apart(request, running_servers, name, confined, status, told):
    server = running_servers.get(name, request)
    with untouched(server):
        found = report("sftp", {**server.options, "confine_links": confined})
    assert found.status == 0
    assert f"{status}{' ' * (6 - len(status))}publish" in found.text
    assert told in found.flat


def test_free_space_by_webdav(request, running_servers):
    """sabre/dav has the properties of RFC 4331."""
    server = running_servers.get("sabre", request)
    free = os.statvfs(server.root)
    amount = re.search(r"space (\S+) (.)iB free", report("webdav", server.options).flat)
    bytes_free = float(amount[1]) * 1024 ** " KMGT".index(amount[2])
    assert bytes_free == pytest.approx(free.f_frsize * free.f_bavail, rel=0.1)


def test_a_read_only_storage(sshd):
    with untouched(sshd):
        found = report("sftp", {**sshd.options, "read_only": True})
    assert found.status == 0
    assert found.noted == ["write"]
    assert "The option read_only is set" in found.flat
    assert "sessions" in found.text
    assert "delete" not in found.text
    options = {**sshd.options, "read_only": True, "location": f"{sshd.root}/missing"}
    fails("sftp", options, "root", "missing does not exist", "Correct the option location.")


def test_confined_links(sshd, tmp_path):
    found = report("sftp", {**sshd.options, "confine_links": True})
    assert (found.status, found.noted) == (0, []), found.text


# --- the way there --------------------------------------------------------------------------------


def test_settings_that_cannot_be_right():
    found = fails("sftp", {"hots": "nas"}, "settings", "'hots'", "Did you mean 'host'?")
    assert "skip  not tried: all else" in found.text


def test_an_alias_that_is_none():
    told = r"no alias 'nass'; did you mean 'nas'\?"
    with alias("netstorage.SFTPStorage", {"host": "nas"}), pytest.raises(CommandError, match=told):
        call_command("netstorage", "check", "nass")


@pytest.mark.parametrize(
    ("protocol", "options"),
    [("sftp", {"host": "nas.invalid"}), ("webdav", {"url": "http://nas.invalid/"})],
)
def test_a_name_that_does_not_resolve(protocol, options):
    found = fails(protocol, options, "name", "'nas.invalid' cannot be resolved")
    assert f"Check the option {next(iter(options))}" in found.flat
    assert re.search(r"skip not tried: tcp, .*, login, session, .*, sessions$", found.flat.strip())


@pytest.mark.parametrize("protocol", ["sftp", "webdav"])
def test_a_port_where_nobody_listens(protocol):
    port = free_port()
    options = {"host": "127.0.0.1", "port": port}
    if protocol == "webdav":
        options = {"url": f"http://127.0.0.1:{port}/"}
    fails(protocol, options, "tcp", "refuses connections", "Is the ", "server running")


def test_a_web_server_where_ssh_should_be(apache):
    options = {"host": apache.host, "port": apache.port, "username": "u", "password": WRONG}
    fails("sftp", options, "ssh", "does not answer as an SSH server", "options host and port")


@pytest.mark.parametrize("protocol", ["sftp", "webdav"])
def test_a_server_that_says_nothing(protocol, loop):
    deaf = Deaf(loop)
    try:
        if protocol == "sftp":
            options = {"host": "127.0.0.1", "port": deaf.port, "connect_timeout": 0.5}
            fails(protocol, options, "ssh", "no SSH banner within 0.5 s (connect_timeout)")
        else:
            options = {"url": f"http://127.0.0.1:{deaf.port}/", "timeout": 0.5}
            fails(protocol, options, "session", "did not go on within 0.5 s (timeout)")
            options = {"url": f"https://127.0.0.1:{deaf.port}/", "connect_timeout": 0.5}
            fails(protocol, options, "tls", "did not finish the TLS handshake within 0.5 s")
    finally:
        deaf.stop()


def test_a_host_key_that_nobody_knows(sshd):
    """What is offered as the remedy is the key that was shown, and it works."""
    options = {**sshd.options, "host_key": None}
    found = fails("sftp", options, "host key", "is not known", "Do not trust it yet: compare it")
    assert "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub" in found.flat
    (pin,) = re.findall(r'host_key="(SHA256:\S+)"', found.text)
    assert report("sftp", {**options, "host_key": pin}).status == 0


def test_a_host_key_that_has_changed(sshd, tmp_path):
    other = ssh_key(tmp_path / "other")
    found = fails("sftp", {**sshd.options, "host_key": other}, "host key", "is not the one")
    assert "Somebody may be listening in. Do not trust it yet" in found.flat
    assert re.search(r'set the option host_key="SHA256:\S{43}"', found.flat)


def test_a_host_key_that_is_revoked(sshd, tmp_path):
    host = f"[{sshd.host}]:{sshd.port}"
    known = tmp_path / "known_hosts"
    known.write_text(f"@revoked {host} {sshd.host_keys['ed25519']}\n")
    options = {**sshd.options, "known_hosts": known}
    found = fails("sftp", options, "host key", "revoke", "Do not trust this server.")
    assert 'host_key="' not in found.text


def test_known_hosts_that_cannot_be_read(sshd, tmp_path):
    options = {**sshd.options, "host_key": None, "known_hosts": tmp_path / "none"}
    fails("sftp", options, "host key", "which cannot be read", "Correct the option known_hosts.")


def test_a_server_with_old_algorithms_alone(start):
    """One after the other is named, until it can be reached; and then it is told how weak it is."""
    server = start(Sshd(extra=["Ciphers aes256-cbc", "MACs hmac-sha1"]))
    fails("sftp", server.options, "algorithms", 'legacy_algorithms=["aes256-cbc"]', "SSH-2.0-")
    legacy = {"legacy_algorithms": ["aes256-cbc"]}
    fails("sftp", {**server.options, **legacy}, "algorithms", 'legacy_algorithms=["hmac-sha1"]')
    legacy["legacy_algorithms"].append("hmac-sha1")
    found = report("sftp", {**server.options, **legacy})
    assert (found.status, found.noted) == (0, ["algorithms"])
    assert "aes256-cbc, hmac-sha1 of legacy_algorithms is weak" in found.flat


def test_a_server_that_is_too_old(scripted):
    server = scripted(kex_algs=["diffie-hellman-group1-sha1"])
    found = fails("sftp", server.options, "algorithms", "no algorithm in common")
    assert "The server offers diffie-hellman-group1-sha1" in found.flat
    assert "None of them is supported any more: update the server." in found.flat


def test_a_wrong_password_for_sftp(request, running_servers):
    server = running_servers.get("embedded-sftp", request)
    found = fails("sftp", {**server.options, "password": WRONG}, "login", "refused the login of")
    assert "it allows" in found.flat or "by password" in found.flat
    assert "Check the options username, password and key_filename." in found.flat
    assert WRONG not in found.text


def test_a_key_where_a_password_is_wanted(sshd):
    options = {**sshd.options, "key_filename": None, "password": WRONG}
    fails("sftp", options, "login", "by password; it allows publickey")


def test_nothing_to_log_in_with(sshd, monkeypatch):
    """It is told at its step, and what comes before is looked at all the same."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    options = {**sshd.options, "key_filename": None}
    found = fails("sftp", options, "login", "there is nothing to log in to")
    assert "ok    host key" in found.text


def test_a_callable_that_fails(sshd):
    def password() -> str:
        return os.environ["NO_SUCH_VARIABLE"]

    options = {**sshd.options, "key_filename": None, "password": password}
    fails("sftp", options, "login", "login KeyError: 'NO_SUCH_VARIABLE'")


def test_an_openssh_without_sftp(start):
    server = start(Sshd(internal=False, sftp_arguments="-x"))
    fails("sftp", server.options, "session", "ended SFTP as soon as it had begun")


# --- TLS and HTTP ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def https() -> Iterator[Apache]:
    server = Apache(tls=True)
    if reason := server.unavailable():
        pytest.skip(f"apache: {reason}")
    with server:
        yield server


def test_a_certificate(https):
    """One that ends in a week is worth a note; and so is one that nobody verifies."""
    found = report("webdav", https.options)
    assert (found.status, found.noted) == (0, ["tls"])
    assert "TLSv1.3, verified; certificate of 127.0.0.1, localhost by netstorage" in found.flat
    assert re.search(r"ends \d{4}-\d\d-\d\d \(7 days left\)", found.flat)
    assert "Renew the server's certificate." in found.flat
    found = report("webdav", {**https.options, "verify": False})
    assert "not verified; certificate of 127.0.0.1" in found.flat
    assert "The option verify is off" in found.flat


def test_a_certificate_that_nobody_vouches_for(https):
    found = fails("webdav", {**https.options, "verify": True}, "tls", "local issuer certificate")
    assert "; certificate of 127.0.0.1, localhost by netstorage tests, ends 20" in found.flat
    assert "set the option verify to the path of the CA certificate" in found.flat


def test_a_certificate_of_another_name(https):
    url = https.url.replace("127.0.0.1", "127.1")
    found = fails("webdav", {**https.options, "url": url}, "tls", "not valid for '127.1'")
    assert "certificate of 127.0.0.1, localhost" in found.flat
    assert "The option url must name the server as its certificate does." in found.flat


def test_a_certificate_that_has_ended(tmp_path):
    authority = Authority(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.issue(days=-1))
    with ScriptedHTTP(MemoryDAV(), context=context) as server:
        options = {"url": server.url, "verify": str(authority.ca), "password": WRONG}
        fails("webdav", options, "tls", "certificate has expired", "(1 day ago)")
        assert server.requests == []


def test_a_certificate_file_that_is_missing(https):
    options = {**https.options, "verify": "/missing.pem"}
    found = fails("webdav", options, "tls", "the option verify names /missing.pem, which cannot")
    assert "Check the options url, verify and cert." in found.flat


def test_a_client_certificate(start):
    """With TLS 1.3 a client learns after the handshake only that the server wanted one."""
    server = start(Apache(client_certificate=True))
    found = report("webdav", server.options)
    assert (found.status, found.noted) == (0, ["tls"])
    found = report("webdav", {**server.options, "verify": False})
    assert "not verified; certificate of 127.0.0.1" in found.flat
    options = {**server.options, "cert": None}
    fails("webdav", options, "session", "CERTIFICATE_REQUIRED", "see the option cert")


def test_plain_http_where_https_is_wanted(https):
    url = https.url.replace("https", "http")
    fails("webdav", {**https.options, "url": url}, "session")


def test_https_where_plain_http_is_spoken(apache):
    url = apache.url.replace("http", "https")
    fails("webdav", {**apache.options, "url": url}, "tls", "Does the server speak HTTPS there?")


def test_a_wrong_password_for_webdav(apache):
    found = fails(
        "webdav", {**apache.options, "password": WRONG}, "login", "refused the credentials (401)"
    )
    assert "; it offers Basic" in found.flat
    assert "Check the options username, password, auth and token." in found.flat
    assert WRONG not in found.text


def test_the_other_authentication(start):
    server = start(Apache(auth="digest"))
    options = {**server.options, "auth": "basic"}
    fails("webdav", options, "login", "it offers Digest", 'Set the option auth="digest".')


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"private_key": OTHER_PEM}, "by publickey"),
        ({"private_key": OTHER_PEM[:200]}, "holds no key that can be used"),
        ({"private_key": LOCKED, "passphrase": WRONG}, "holds no key that can be used"),
    ],
    ids=["key", "cut-key", "passphrase"],
)
def test_keys_that_do_not_do(sshd, given, told):
    """Nothing of them shows; see report()."""
    fails("sftp", {**sshd.options, "key_filename": None, **given}, "login", told)


def test_a_token_that_does_not_do(apache):
    options = {"url": apache.url, "token": WRONG, "headers": {"X-Token": WRONG}}
    found = fails("webdav", options, "login", "refused the credentials")
    assert WRONG not in found.text


def test_a_proxy(apache):
    """Where it is, is taken as secret."""
    port = free_port()
    options = {**apache.options, "proxy": f"http://me:{WRONG}@127.0.0.1:{port}"}
    found = fails("webdav", options, "session", "refuses connections")
    assert found.noted == ["proxy"]
    assert WRONG not in found.text
    assert str(port) not in found.text


def test_a_url_that_leads_to_nothing(apache):
    options = {**apache.options, "url": f"{apache.url}missing/"}
    found = fails("webdav", options, "session", "does not exist on the server (404)")
    assert "Make that folder, or correct the option url." in found.flat


def test_a_plain_web_server(apache):
    """Its answers to looks are those of an nginx without dav_ext; a write shows what it is."""
    site = apache.root.parent / "site"
    site.mkdir(exist_ok=True)
    (site / "index.html").write_text("<p>Welcome")
    options = {"url": apache.url.replace("/dav/", "/site/")}
    found = fails("webdav", options, "write", "is the option url that of a WebDAV folder?")
    assert found.noted == ["session"]
    assert "no DAV header" in found.flat
    assert "skip  not tried: clock, ranges, publish" in found.text
    assert [path.name for path in site.iterdir()] == ["index.html"]


def test_an_nginx_without_dav_ext(request, running_servers):
    server = running_servers.get("nginx-plain", request)
    with untouched(server):
        found = report("webdav", server.options)
    assert (found.status, found.noted) == (0, ["session"]), found.text
    assert "does not answer PROPFIND, so it cannot list" in found.flat
    assert "On nginx the module dav_ext adds it." in found.flat


# --- at the root ----------------------------------------------------------------------------------


def test_a_root_that_is_a_file(server):
    location = fresh_location(server)
    file = server.root / Path(location).name
    file.write_text("file")
    try:
        for where in (location, f"{location}/below"):
            options = {**server.options, "location": where}
            with untouched(server):
                found = fails(server.protocol, options, "root", f"{location} is a file")
            assert "Set the option location to a folder." in found.flat
    finally:
        file.unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has folders that www-data may not use")
def test_a_root_where_the_user_may_not_write(start):
    server = start(Sshd(ordinary=True))
    (server.root / "closed").mkdir(mode=0o755)
    (server.root / "secret").mkdir(mode=0o700)
    (server.root / "secret" / "media").mkdir()
    options = {**server.options, "location": str(server.root / "closed")}
    fails("sftp", options, "write", "Permission denied", "Give the user the right to do this")
    options = {**server.options, "location": str(server.root / "secret" / "media")}
    fails("sftp", options, "root", "Permission denied")


@pytest.fixture
def small_disk(sshd) -> Iterator[Path]:
    path = sshd.root / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        path.rmdir()
        pytest.skip("only root can mount a small disk, and not everywhere")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)
    path.rmdir()


def test_a_disk_without_room(sshd, small_disk):
    options = {**sshd.options, "location": str(small_disk)}
    found = fails("sftp", options, "upload", "no space left", "Make room on the server's disk.")
    assert found.noted == ["space"]
    assert "1.0 MiB free" in found.flat
    assert list(small_disk.iterdir()) == []
    with (small_disk / "fill").open("wb", buffering=0) as fill, pytest.raises(OSError, match="28"):
        while fill.write(bytes(4096)):
            pass
    found = fails("sftp", options, "write", "no space left", "Make room on the server's disk.")
    assert [path.name for path in small_disk.iterdir()] == ["fill"]


def test_uploads_that_are_too_long(start):
    """nginx takes 1 MiB at the most, unless it is told otherwise."""
    server = start(Nginx(client_max_body_size=2**20))
    with untouched(server):
        fails("webdav", server.options, "upload", "413", "nginx: client_max_body_size")


class FewClients(Proftpd):
    """Lets each user in twice at the same time."""

    def configure(self) -> None:
        super().configure()
        with (self.folder / "proftpd.conf").open("a") as config:
            config.write("MaxClientsPerUser 2\n")

    def wait_until_left(self) -> None:
        """Each session has a process, which the server counts until it has ended."""
        master = next(self.folder.glob("*.pid")).read_text().strip()
        deadline = time.monotonic() + START_SECONDS
        while Path(f"/proc/{master}/task/{master}/children").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_too_few_sessions_for_sftp(start):
    server = start(FewClients())
    with untouched(server):
        found = fails("sftp", server.options, "sessions", "2 of 4 at the same time")
    assert 'pool={"max_size": 2}' in found.flat
    server.wait_until_left()
    options = {**server.options, "pool": {"max_size": 2}, "timeout": 31}
    assert report("sftp", options).status == 0


class Turnstile(Proxy):
    """Lets three connections through at the same time."""

    async def _accept(self, reader: Any, writer: Any) -> None:
        if len(self._tasks) >= 2 * 3:
            writer.close()
        else:
            await super()._accept(reader, writer)


def test_too_few_connections(server, loop):
    """Each session has one, of either protocol."""
    proxy = Turnstile(loop, server.port)
    options = {**server.options}
    if server.protocol == "sftp":
        options["port"] = proxy.port
    else:
        options["url"] = options["url"].replace(str(server.port), str(proxy.port))
    try:
        with untouched(server):
            found = fails(server.protocol, options, "sessions", "3 of 4 at the same time")
        assert 'pool={"max_size": 3}' in found.flat
    finally:
        proxy.stop()


def test_a_server_that_overwrites(scripted):
    """asyncssh says that its RENAME refuses a taken name; this one's does not."""
    overwrite = on(
        "RENAME", lambda peer, request: peer._rename(request, request.strings[:2]), each=True
    )
    server = scripted(overwrite)
    found = fails("sftp", server.options, "publish", "a rename over a taken name was not refused")
    assert "Two saves of one name may lose a file on this server" in found.flat
    assert "skip  not tried: replace" in found.text
    assert server.files == {}


def test_a_server_that_gives_back_other_bytes(scripted):
    server = scripted(on("READ", lambda peer, request: data(request.id, bytes(1000))))
    fails("sftp", server.options, "write", "other bytes than it was sent", "log should tell why")
    assert server.files == {}


def test_a_server_that_cannot_replace(scripted):
    """Worth a note, until the storage has to."""
    server = scripted(extensions={})
    found = report("sftp", server.options)
    assert (found.status, found.noted) == (0, ["clock", "replace"])
    assert "Leave the option allow_overwrite off on this server." in found.flat
    assert "session SFTP 3 with no extensions" in found.flat
    assert "space the server does not tell how much is free" in found.flat
    fails("sftp", {**server.options, "allow_overwrite": True}, "replace", "cannot replace a file")
    assert server.files == {}


def test_a_server_that_keeps_what_it_should_remove(scripted):
    """It is named, for whoever looks after the server."""
    server = scripted(on("REMOVE", frames.FAILURE, each=True))
    found = fails("sftp", server.options, "delete", "could not be removed", "hidden file stays")
    assert all(name.decode() in found.flat.replace(" ", "") for name in server.files)


@pytest.mark.parametrize(("shift", "told"), [(300, "ahead"), (-300, "behind")])
def test_a_clock_that_is_wrong(scripted, shift, told):
    """By five minutes, as the time of the file shows that is read."""

    def fstat(peer: Any, request: Any) -> bytes:
        then = int(time.time()) + shift
        return frame(frames.ATTRS, request.id, attributes(1000, 0o100644, (then, then)))

    found = report("sftp", scripted(on("FSTAT", fstat, nth=2)).options)
    assert (found.status, found.noted) == (0, ["clock"])
    assert re.search(rf"clock the server's is 0:0(4:5\d|5:0\d) {told}", found.flat)
    assert "time server (NTP)" in found.flat


def test_a_server_without_ranges():
    """Many a proxy compresses, or answers for the server."""
    dav = MemoryDAV()

    def whole(request: Any) -> Any:
        request.headers.pop("range", None)
        return dav(request)

    with ScriptedHTTP(whole) as server:
        found = report("webdav", {"url": server.url})
    assert (found.status, found.noted) == (0, ["clock", "ranges"]), found.text
    assert "the server sends the whole file where a part is asked for" in found.flat


# --- the check itself -----------------------------------------------------------------------------


def test_a_check_that_is_interrupted(server):
    """What it had made is removed."""
    folder = server.root / "interrupted"
    folder.mkdir(exist_ok=True)
    backend = f"netstorage.{'SFTP' if server.protocol == 'sftp' else 'WebDAV'}Storage"
    location = fresh_location(server).rpartition("/")
    options = {**server.options, "location": f"{location[0]}{location[1]}interrupted"}
    with alias(backend, options), closing(look_at("nas")) as findings:
        for finding in findings:
            if finding.step == "upload":
                break
        assert len(list(folder.iterdir())) >= 2
    assert list(folder.iterdir()) == []


def test_a_line_that_breaks_in_the_middle(sshd, loop):
    """What stood on the session is skipped; what was made is removed over another one."""
    proxy = Proxy(loop, sshd.port)
    try:
        found: list[Finding] = []
        with untouched(sshd), alias("netstorage.SFTPStorage", {**sshd.options, "port": proxy.port}):
            for finding in look_at("nas"):
                found.append(finding)
                if finding.step == "publish":
                    proxy.cut()
    finally:
        proxy.stop()
    status = {each.step: each.status for each in found}
    assert status["replace"] == "fail"
    assert status["clock"] == "ok"
    assert [status[step] for step in ("upload", "download", "sessions")] == ["skip"] * 3
    assert status["delete"] == "ok"


def test_a_server_that_falls_silent_in_the_middle(server, loop):
    """Each wait ends, and what was made is removed over another connection."""
    proxy = Proxy(loop, server.port)
    options = {**server.options, "timeout": 0.5}
    if server.protocol == "sftp":
        options["port"] = proxy.port
    else:
        options["url"] = options["url"].replace(str(server.port), str(proxy.port))
    backend = f"netstorage.{'SFTP' if server.protocol == 'sftp' else 'WebDAV'}Storage"
    found: dict[str, Finding] = {}
    try:
        with untouched(server), alias(backend, options):
            for finding in look_at("nas"):
                found[finding.step] = finding
                if finding.step == "clock":
                    proxy.freeze()
    finally:
        proxy.stop()
    assert found["ranges"].status == "fail"
    assert "did not go on within 0.5 s (timeout)" in found["ranges"].found
    assert "raise that option" in found["ranges"].remedy
    assert found["publish"].status == found["sessions"].status == "skip"
    assert found["delete"].status == "ok"


PROJECT = """
SECRET_KEY = "x"
INSTALLED_APPS = ["netstorage"]
STORAGES = {{"nas": {{"BACKEND": "netstorage.SFTPStorage", "OPTIONS": {options!r}}}}}
"""


def test_the_command_as_it_is_typed(apache, tmp_path):
    """With its status, and nothing of the libraries' own words on the terminal."""
    options = {"host": apache.host, "port": apache.port, "password": WRONG}
    (tmp_path / "project.py").write_text(PROJECT.format(options=options))
    done = subprocess.run(
        [sys.executable, "-m", "django", "netstorage", "check", "nas"],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}", "DJANGO_SETTINGS_MODULE": "project"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "FAIL  ssh" in done.stdout
    assert done.stderr == ""


def without_what_varies(text: str) -> str:
    """A report, but for times, sizes, names of this machine, and versions of the software."""
    for pattern, instead in (
        (r"\s+", " "),
        (r" \([\d.]+ m?s\)", ""),
        (r"sftp://[\w.]+:\d+", "SERVER"),
        (r"[\d.]+\d(:\d+)?(?= )", "N"),
        (r"SHA256:[\w+/]+", "KEY"),
        (r"SSH-2.0-\S+( Debian\S*)?", "VERSION"),
        (r"algorithms .*?(?= (ok|FAIL))", "algorithms"),
        (r"SFTP 3 with .*?(?= ok)", "SFTP 3"),
        (r"N .?i?B", "SIZE"),
        (r"/[\w/-]+/(files|media)", "ROOT"),
        (r"'\w+' by", "USER by"),
        (r"the \d hidden", "the hidden"),
    ):
        text = re.sub(pattern, instead, text)
    return text.strip()


@pytest.mark.parametrize("number", [0, 1])
def test_the_transcripts_of_the_page(sshd, number):
    page = (ROOT / "docs/howto-check.md").read_text()
    shown = re.findall(r"```text\n(ok    settings.*?)```", page, re.DOTALL)[number]
    options = sshd.options if number == 0 else {**sshd.options, "host_key": None}
    real = report("sftp", options)
    assert without_what_varies(shown) == without_what_varies(real.text)
    assert all(len(line) <= 80 for line in shown.splitlines())


def test_the_page_lists_every_step(apache):
    page = (ROOT / "docs/howto-check.md").read_text()
    listed = re.findall(r"^\| `([\w ]+)` \|", page, re.MULTILINE)
    fields = re.findall(r"^\| `\"(\w+)\"` \|", page, re.MULTILINE)
    assert sorted(listed) == sorted({*SFTP, *WEBDAV, *THERE, "proxy", "all else", *ELSEWHERE})
    assert fields == [each.name for each in dataclasses.fields(Finding)]


def test_what_a_server_says_moves_no_cursor():
    steps = [Step("ssh", lambda: "SSH-2.0-\x1b[2Jbad\nFAIL tcp")]
    assert list(lines(walk(steps))) == ["ok    ssh         SSH-2.0-?[2Jbad FAIL tcp"]


# --- other storages -------------------------------------------------------------------------------


def test_a_storage_that_is_not_ours(tmp_path):
    with alias("django.core.files.storage.FileSystemStorage", {"location": tmp_path}):
        status, text = run()
    assert status == 0
    assert "note  settings    FileSystemStorage, which is not of netstorage" in text
    assert "Only what Django's Storage API allows is tried." in text
    assert re.findall(r"^ok    (\w+)", text, re.MULTILINE) == ["save", "read", "delete"]
    assert list(tmp_path.iterdir()) == []


def test_a_storage_that_is_not_ours_where_it_is_interrupted(tmp_path):
    """What it had made is removed."""
    with (
        alias("django.core.files.storage.FileSystemStorage", {"location": tmp_path}),
        closing(look_at("nas")) as findings,
    ):
        for finding in findings:
            if finding.step == "save":
                break
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


class Forgetful(FileSystemStorage):
    """Says that it deletes, and does not."""

    def delete(self, name: str) -> None:
        pass


class Away(Storage):
    """Fails with an error of its own."""

    def _save(self, name: str, content: Any) -> str:
        raise LookupError("the bucket went away")

    def exists(self, name: str) -> bool:
        return False


@pytest.mark.parametrize(
    ("kind", "told"),
    [(Forgetful, "FAIL  delete"), (Away, "FAIL  save        LookupError: the bucket went away")],
)
def test_a_storage_that_is_not_ours_and_fails(tmp_path, settings, kind, told):
    settings.MEDIA_ROOT = tmp_path
    with alias(f"{__name__}.{kind.__name__}", {}):
        status, text = run()
    assert status == 1
    assert told in text


# --- health ---------------------------------------------------------------------------------------


def test_health(server):
    backend = f"netstorage.{'SFTP' if server.protocol == 'sftp' else 'WebDAV'}Storage"
    with alias(backend, {**server.options, "location": fresh_location(server)}):
        assert 0 < check_health(storages["nas"]) < 5
        storages["nas"].pool.close()


def test_no_health(loop):
    options = {"host": "127.0.0.1", "port": free_port(), "password": WRONG, "connect_timeout": 3}
    refused = pytest.raises(ConnectError, match="refuses connections")
    with alias("netstorage.SFTPStorage", options), refused:
        check_health(storages["nas"])
    deaf = Deaf(loop)
    options["port"] = deaf.port
    late = pytest.raises(TimeoutError, match=r"health check within 0\.2 s")
    try:
        with alias("netstorage.SFTPStorage", options), late:
            check_health(storages["nas"], within=0.2)
    finally:
        deaf.stop()
