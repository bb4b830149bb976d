"""Opening an SFTP session: addresses, algorithms, host keys, logins, and servers that stall.

On real SSH servers: OpenSSH's where its behaviour is the question, else asyncssh and paramiko's.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import re
import socket
import subprocess
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import asyncssh
import paramiko
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.files.base import ContentFile

from netstorage import SFTPStorage
from netstorage.exceptions import AuthenticationError, ConnectError, HostKeyError
from netstorage.sftp.transport import CIPHERS, LEGACY_CIPHERS, LEGACY_MACS, MACS
from tests.servers.base import free_port, missing
from tests.servers.keys import ssh_key
from tests.servers.scripted import (
    PASSWORD,
    USERNAME,
    Deaf,
    Login,
    Loop,
    Proxy,
    Scripted,
    Stepwise,
)
from tests.servers.sshd import Sshd

SHORT = 0.5
"""connect_timeout for servers that never go on."""
PASSPHRASE = "open sesame, said the keeper"


@pytest.fixture
def running(loop: Loop) -> Iterator[Callable[..., Any]]:
    """Starts a server or proxy on the loop; it stops with the test."""
    servers: list[Any] = []

    def start(kind: type, *args: Any, **options: Any) -> Any:
        arguments = args if kind is Stepwise else (loop, *args)
        servers.append(kind(*arguments, **options))
        return servers[-1]

    yield start
    for server in reversed(servers):
        server.stop()


@pytest.fixture(scope="module")
def sshd() -> Iterator[Sshd]:
    yield from started(Sshd())


def started(server: Sshd) -> Iterator[Sshd]:
    if reason := server.unavailable():
        pytest.skip(f"sshd: {reason}")
    with server:
        yield server


@pytest.fixture(autouse=True)
def no_agent(monkeypatch):
    """The agent of whoever runs the tests is none of their business."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


@pytest.fixture(autouse=True, scope="module")
def nothing_left_behind() -> Iterator[None]:
    """In the end no thread of a connection is alive, and no socket was forgotten."""
    before = transports()
    yield
    for thread in transports() - before:
        thread.join(5)
        assert not thread.is_alive()
    # A socket that was not closed warns when it is collected, and warnings are errors.
    gc.collect()


def transports() -> set[threading.Thread]:
    """The threads of connections."""
    return {each for each in threading.enumerate() if isinstance(each, paramiko.Transport)}


def connected(storage: SFTPStorage) -> Any:
    """The Transport of the storage's session."""
    with storage.pool.connection() as session:
        return session._transport


def refused(
    storage: SFTPStorage, kind: type[ConnectError] | None = ConnectError, match: str = "."
) -> ConnectError:
    """The error of a storage that cannot connect; of exactly this kind, unless that is None."""
    with pytest.raises(ConnectError, match=match) as caught:
        storage.exists("f")
    assert kind in {None, type(caught.value)}
    assert caught.value.filename == "f"
    assert storage.pool.stats().connect_errors == 1
    assert storage.pool.stats().size == 0
    storage.pool.close()
    return caught.value


# --- addresses ----------------------------------------------------------------------------------


def has_ipv6() -> bool:
    with suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


@pytest.mark.parametrize("listens", ["127.0.0.1", *(["::1"] if has_ipv6() else [])])
@pytest.mark.parametrize("host", ["localhost", "itself"])
def test_ipv4_and_ipv6(scripted, monkeypatch, listens, host):
    """A name may have addresses of both kinds: whichever answers is taken."""
    resolve = socket.getaddrinfo

    def both(name: str, *args: Any, **options: Any) -> Any:
        names = ("::1", "127.0.0.1") if name == "localhost" else (name,)
        return [found for each in names for found in resolve(each, *args, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    server = scripted(host=listens)
    storage = server.storage(host=listens if host == "itself" else host)
    transport = connected(storage)
    assert transport.sock.getpeername()[0] == listens


def test_a_machine_without_ipv6(scripted, monkeypatch):
    """An address of a kind that the machine cannot even make a socket for is passed over."""
    resolve = socket.getaddrinfo

    def with_another_kind(*args: Any, **options: Any) -> Any:
        return [(socket.AF_APPLETALK, socket.SOCK_STREAM, 0, "", ("",)), *resolve(*args, **options)]

    server = scripted()
    storage = server.storage()
    monkeypatch.setattr(socket, "getaddrinfo", with_another_kind)
    assert not storage.exists("f")


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example", "."])
def test_a_host_that_is_no_name(host):
    storage = SFTPStorage(host=host, username="u", password="p", host_key="SHA256:" + "A" * 43)
    error = refused(storage, match="cannot be resolved")
    assert "Check the option host" in str(error)


def test_a_port_where_nobody_listens():
    storage = SFTPStorage(host="127.0.0.1", port=free_port(), username="u", password="p")
    refused(storage, match=r"refuses connections\. .*is the option port right")


def test_the_socket_sends_at_once(scripted):
    """Without TCP_NODELAY each small exchange would wait 40 ms."""
    sock = connected(scripted().storage()).sock
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0


# --- algorithms ---------------------------------------------------------------------------------


def test_aes_gcm_comes_first(sshd):
    storage = SFTPStorage(**sshd.options)
    transport = connected(storage)
    assert transport.local_cipher == transport.remote_cipher == "aes128-gcm@openssh.com"
    storage.pool.close()


def offered(storage: SFTPStorage) -> paramiko.SecurityOptions:
    return connected(storage).get_security_options()


def test_weak_algorithms_are_not_offered(scripted):
    options = offered(scripted().storage())
    assert options.ciphers == CIPHERS
    assert options.digests == MACS
    assert not {*options.ciphers, *options.digests} & {*LEGACY_CIPHERS, *LEGACY_MACS}
    assert not [kex for kex in options.kex if kex.endswith("sha1")]
    assert "ssh-rsa" not in options.key_types
    assert "ssh-dss" not in options.key_types


def test_legacy_algorithms_come_last(scripted):
    storage = scripted().storage(legacy_algorithms=["aes128-cbc", "hmac-sha1"])
    options = offered(storage)
    assert options.ciphers == (*CIPHERS, "aes128-cbc")
    assert options.digests == (*MACS, "hmac-sha1")


@pytest.mark.parametrize(
    ("only", "legacy"),
    [
        pytest.param({"encryption_algs": ["aes128-cbc"]}, "aes128-cbc", id="cipher"),
        pytest.param({"encryption_algs": ["3des-cbc"]}, "3des-cbc", id="triple-des"),
        pytest.param(
            {"mac_algs": ["hmac-sha1"], "encryption_algs": ["aes128-ctr"]}, "hmac-sha1", id="mac"
        ),
    ],
)
def test_an_old_server(scripted, only, legacy):
    """Refused with the option that would let it in; with that option it serves."""
    server = scripted(**only)
    error = refused(server.storage(), match="no algorithm in common")
    assert f"The server offers {legacy}." in str(error)
    assert f'legacy_algorithms=["{legacy}"]' in str(error)
    storage = server.storage(legacy_algorithms=[legacy])
    assert storage.save("f", ContentFile(b"content")) == "f"


def test_a_server_that_is_too_old(scripted):
    server = scripted(kex_algs=["diffie-hellman-group1-sha1"])
    error = refused(server.storage(), match="diffie-hellman-group1-sha1")
    assert "update the server" in str(error)


def test_an_old_openssh():
    for server in started(Sshd(extra=["Ciphers aes256-cbc", "MACs hmac-sha1"])):
        error = refused(SFTPStorage(**server.options), match="offers aes256-cbc")
        assert 'legacy_algorithms=["aes256-cbc"]' in str(error)
        legacy = ["aes256-cbc", "hmac-sha1"]
        storage = SFTPStorage(**server.options, legacy_algorithms=legacy)
        assert not storage.exists("f")
        storage.pool.close()


# --- host keys ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def host_keys() -> dict[str, asyncssh.SSHKey]:
    return {
        "ssh-ed25519": asyncssh.generate_private_key("ssh-ed25519"),
        "ecdsa-sha2-nistp256": asyncssh.generate_private_key("ecdsa-sha2-nistp256"),
        "ecdsa-sha2-nistp521": asyncssh.generate_private_key("ecdsa-sha2-nistp521"),
        "ssh-rsa": asyncssh.generate_private_key("ssh-rsa", key_size=2048),
    }


def public(key: asyncssh.SSHKey) -> str:
    return key.export_public_key().decode().strip()


ANY_KEY = ["ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp521", "ssh-rsa"]


@pytest.mark.parametrize("known", ANY_KEY)
@pytest.mark.parametrize("source", ["host_key", "known_hosts"])
def test_the_known_kind_of_key_is_asked_for(scripted, host_keys, tmp_path, known, source):
    """A server has keys of many kinds; it shows the one that is trusted."""
    server = scripted(server_host_keys=list(host_keys.values()))
    line = public(host_keys[known])
    options: dict[str, Any] = {"host_key": line}
    if source == "known_hosts":
        (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{server.port} {line}\n")
        options = {"host_key": None, "known_hosts": tmp_path / "known_hosts"}
    transport = connected(server.storage(**options))
    assert transport.get_remote_server_key().get_name() == known


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_the_known_kind_of_key_is_asked_for_on_openssh(sshd, kind):
    storage = SFTPStorage(**sshd.options | {"host_key": sshd.host_keys[kind]})
    assert kind in connected(storage).get_remote_server_key().get_name()
    storage.pool.close()


def test_a_key_of_another_kind_is_not_enough(scripted, host_keys):
    """The server has no such key: what it shows instead is refused."""
    server = scripted(server_host_keys=[host_keys["ssh-ed25519"]])
    storage = server.storage(host_key=public(host_keys["ssh-rsa"]))
    refused(storage, HostKeyError, "is not the one that the option host_key trust")


def pins(key: asyncssh.SSHKey, other: asyncssh.SSHKey) -> dict[str, Any]:
    line = public(key)
    return {
        "line": line,
        "comment": f"{line} somebody@somewhere with words",
        "spaces": f"  {line}\n",
        "fingerprint": key.get_fingerprint(),
        "padded": f"{key.get_fingerprint()}=",
        "list": [public(other), line],
        "tuple": (other.get_fingerprint(), key.get_fingerprint()),
        "mixed": [public(other), key.get_fingerprint()],
    }


@pytest.mark.parametrize("form", pins(Scripted.key, Scripted.key))
def test_pins(scripted, host_keys, form):
    server = scripted()
    good = pins(server.key, host_keys["ssh-ed25519"])[form]
    assert not server.storage(host_key=good).exists("f")
    bad = pins(host_keys["ssh-ed25519"], host_keys["ssh-ed25519"])[form]
    refused(server.storage(host_key=bad), HostKeyError, "Somebody may be listening in")
    assert len(server.attempts) == 1


@pytest.mark.parametrize(
    "garbage",
    [
        "",
        "ssh-ed25519",
        "ssh-ed25519 AAAA",
        "ssh-ed25519 !!!!",
        "ssh-nothing AAAAC3NzaC1lZDI1NTE5AAAAIA==",
        "SHA256:",
        "SHA256:short",
        "SHA256:" + "A" * 42,
        "SHA256:" + "A" * 44,
        "SHA256:" + "é" * 43,
        "MD5:00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff",
        "127.0.0.1 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA==",
        "/etc/ssh/ssh_host_ed25519_key.pub",
        "ssh-ed25519 é",
    ],
)
def test_pins_that_are_none(garbage):
    storage = SFTPStorage(host="127.0.0.1", username="u", password="p", host_key=["", garbage][1:])
    with pytest.raises(ImproperlyConfigured, match="'host_key'"):
        storage.exists("f")


def test_no_key_is_trusted_by_default(scripted):
    """The error tells the one line that would trust it; that line does."""
    server = scripted()
    error = refused(server.storage(host_key=None), HostKeyError, "is not known")
    assert server.key.get_fingerprint() in str(error)
    assert server.attempts == []
    remedy = re.search(r'host_key="([^"]+)"', str(error))
    assert remedy is not None
    assert not server.storage(host_key=remedy[1]).exists("f")


def test_a_changed_key(scripted, host_keys, tmp_path):
    server = scripted()
    known_hosts = tmp_path / "known_hosts"
    old = host_keys["ssh-ed25519"]
    known_hosts.write_text(f"[127.0.0.1]:{server.port} {public(old)}\n")
    storage = server.storage(host_key=None, known_hosts=known_hosts)
    error = refused(storage, HostKeyError, "Somebody may be listening in")
    for told in (server.key.get_fingerprint(), old.get_fingerprint(), str(known_hosts), "host_key"):
        assert told in str(error)
    assert server.attempts == []


KNOWN = {
    "plain": ("[127.0.0.1]:{port} {key}", True),
    "comment": ("# my server\n\n[127.0.0.1]:{port} {key} root@server, 2026", True),
    "many-names": ("server,[127.0.0.1]:{port},10.0.0.1 {key}", True),
    "wildcard": ("[127.0.0.*]:* {key}", True),
    "question-mark": ("[127.0.0.?]:{port} {key}", True),
    "everything": ("* {key}", True),
    "several-of-a-kind": ("[127.0.0.1]:{port} {other}\n[127.0.0.1]:{port} {key}", True),
    "garbage-before": ("|1|garbage|more {key}\nnonsense\n[127.0.0.1]:{port} {key}", True),
    "tabs": ("[127.0.0.1]:{port}\t{key}", True),
    "hashed": ("[127.0.0.1]:{port} {key}", True),
    "hashed-other": ("[127.0.0.2]:{port} {key}", False),
    "other-port": ("[127.0.0.1]:22 {key}", False),
    "no-port": ("127.0.0.1 {key}", False),
    "other-host": ("[127.0.0.2]:{port} {key}", False),
    "negated": ("*,![127.0.0.1]:{port} {key}", False),
    "commented-out": ("#[127.0.0.1]:{port} {key}", False),
    "commented-out-list": ("#server,[127.0.0.1]:{port} {key}", False),
    "certificate-authority": ("@cert-authority [127.0.0.1]:{port} {key}", False),
    "unknown-marker": ("@future [127.0.0.1]:{port} {key}", False),
    "key-cut": ("[127.0.0.1]:{port} {cut}", False),
    "empty": ("", False),
    "brackets": ("[127.0.0.1]{port} {key}", False),
}


@pytest.mark.parametrize("form", KNOWN)
def test_known_hosts(scripted, host_keys, tmp_path, form):
    server = scripted()
    lines, trusted = KNOWN[form]
    path = tmp_path / "known_hosts"
    key, other = public(server.key), public(host_keys["ssh-ed25519"])
    path.write_text(lines.format(port=server.port, key=key, other=other, cut=key[:40]) + "\n")
    if form.startswith("hashed"):
        subprocess.run(["ssh-keygen", "-q", "-H", "-f", path], check=True, capture_output=True)
        assert "|1|" in path.read_text()
    storage = server.storage(host_key=None, known_hosts=path)
    if trusted:
        assert not storage.exists("f")
    else:
        error = refused(storage, HostKeyError, "is not known")
        assert str(path) in str(error)


def test_a_revoked_key_is_refused_whatever_else_is_said(scripted, tmp_path):
    server = scripted()
    path = tmp_path / "known_hosts"
    line = public(server.key)
    path.write_text(f"[127.0.0.1]:{server.port} {line}\n@revoked * {line}\n")
    for pin in (None, line, server.key.get_fingerprint()):
        storage = server.storage(host_key=pin, known_hosts=path)
        refused(storage, HostKeyError, "revoke. Do not trust this server")
    assert server.attempts == []


@pytest.mark.parametrize("what", ["missing", "directory"])
def test_known_hosts_that_cannot_be_read(tmp_path, what):
    path = tmp_path if what == "directory" else tmp_path / "missing"
    storage = SFTPStorage(host="127.0.0.1", username="u", password="p", known_hosts=path)
    error = refused(storage, HostKeyError, "the option known_hosts names")
    assert str(path) in str(error)


def test_known_hosts_of_openssh_itself(sshd, tmp_path):
    """What ssh-keyscan writes is understood."""
    scan = ["ssh-keyscan", "-H", "-p", str(sshd.port), sshd.host]
    scanned = subprocess.run(scan, check=True, capture_output=True, text=True).stdout
    (tmp_path / "known_hosts").write_text(scanned)
    options = sshd.options | {"host_key": None, "known_hosts": tmp_path / "known_hosts"}
    storage = SFTPStorage(**options)
    assert not storage.exists("f")
    storage.pool.close()


# --- logging in ---------------------------------------------------------------------------------


@pytest.fixture
def secretless(caplog) -> Callable[..., None]:
    """Checks that neither an error, with all that led to it, nor any log holds a secret."""
    caplog.set_level(logging.DEBUG)
    for name in ("paramiko", "netstorage"):
        caplog.set_level(logging.DEBUG, logger=name)

    def check(error: BaseException | None, *secrets: str) -> None:
        ours = [r for r in caplog.records if r.name.startswith(("paramiko", "netstorage"))]
        told = [record.getMessage() for record in ours]
        if error is not None:
            told += traceback.format_exception(error)
        for secret in (PASSWORD, PASSPHRASE, *secrets):
            assert not [line for line in told if secret in line]

    return check


def test_a_password(scripted, secretless):
    server = scripted()
    assert not server.storage().exists("f")
    assert server.attempts == [("password", PASSWORD)]
    secretless(None)


def test_a_wrong_password(scripted, secretless):
    server = scripted()
    error = refused(
        server.storage(password="wrong-Pa55word"), AuthenticationError, "refused the login"
    )
    for told in (USERNAME, "password", f"sftp://127.0.0.1:{server.port}"):
        assert told in str(error)
    secretless(error, "wrong-Pa55word")
    assert len(server.attempts) == 1


def test_a_wrong_user(scripted, secretless):
    error = refused(scripted().storage(username="nobody"), AuthenticationError, "'nobody'")
    secretless(error)


def test_a_password_that_is_asked_for(scripted):
    """A callable is asked once for each connection, and not before one is made."""
    asked = []

    def password() -> str:
        asked.append(1)
        return PASSWORD

    server = scripted()
    storage = server.storage(password=password)
    assert asked == []
    assert not storage.exists("f")
    assert not storage.exists("f")
    assert asked == [1]


def test_a_callable_that_fails(scripted):
    """Its own error comes through, and the server was not bothered."""

    def password() -> str:
        raise LookupError("the vault is sealed")

    server = scripted()
    with pytest.raises(LookupError, match="sealed"):
        server.storage(password=password).exists("f")
    assert server.connections == []


@pytest.mark.parametrize("password", ["", "pässwörd ✓", "x" * 2000, " spaces "])
def test_odd_passwords(scripted, password):
    class Odd(Login):
        def validate_password(self, username: str, given: str) -> bool:
            return given == password

    assert not scripted(login=Odd).storage(password=password).exists("f")


# paramiko forgets to close its socket to an agent that is not there.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_nothing_to_log_in_with(scripted, monkeypatch, tmp_path):
    server = scripted()
    error = refused(server.storage(password=None), AuthenticationError, "nothing to log in")
    for option in ("password", "key_filename", "private_key"):
        assert option in str(error)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "nobody"))
    refused(server.storage(password=None, timeout=21), AuthenticationError, "nothing to log in")
    gc.collect()
    assert server.connections == []


def test_a_process_without_a_user_name(scripted, monkeypatch):
    """As in a container that runs under a number only."""

    def nobody() -> str:
        raise KeyError("uid not found: 1234567")

    monkeypatch.setattr("getpass.getuser", nobody)
    refused(scripted().storage(username=None), AuthenticationError, "set the option username")


def make_key(path: Path, kind: str, passphrase: str = "", form: str = "RFC4716") -> str:
    """As `ssh_key`, in another form, and with fewer rounds for the passphrase."""
    command = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-f", str(path), "-a", "1"]
    command += ["-b", "2048"] * (kind == "rsa") + ["-m", form] * (form != "RFC4716")
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path.with_name(path.name + ".pub").read_text()


KEYS = {
    "ed25519": ("ed25519", "RFC4716"),
    "ecdsa": ("ecdsa", "RFC4716"),
    "ecdsa-pem": ("ecdsa", "PEM"),
    "rsa": ("rsa", "RFC4716"),
    "rsa-pem": ("rsa", "PEM"),
}


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> Path:
    """A folder with keys of each kind, plain and, as ``…-locked``, with a passphrase."""
    folder = tmp_path_factory.mktemp("keys")
    for name, (kind, form) in KEYS.items():
        make_key(folder / name, kind, form=form)
        make_key(folder / f"{name}-locked", kind, PASSPHRASE, form)
    return folder


@pytest.fixture
def key_server(scripted, keys) -> Scripted:
    """A server that lets every one of the keys in, and no password."""

    class KeysOnly(Login):
        def password_auth_supported(self) -> bool:
            return False

    lines = "".join(path.read_text() for path in keys.glob("*.pub"))
    authorized = asyncssh.import_authorized_keys(lines)
    return scripted(login=KeysOnly, authorized_client_keys=authorized)


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("given", ["file", "path", "text", "callable"])
def test_private_keys(key_server, keys, name, given, secretless):
    path = keys / name
    text = path.read_text()
    options = {
        "file": {"key_filename": str(path)},
        "path": {"key_filename": path},
        "text": {"private_key": text},
        "callable": {"private_key": lambda: text},
    }[given]
    storage = key_server.storage(password=None, **options)
    assert not storage.exists("f")
    secretless(None, text.splitlines()[2])


@pytest.mark.parametrize("name", KEYS)
def test_keys_with_a_passphrase(key_server, keys, name, secretless):
    locked = {"password": None, "key_filename": keys / f"{name}-locked"}
    assert not key_server.storage(**locked, passphrase=PASSPHRASE).exists("f")
    assert not key_server.storage(**locked, passphrase=lambda: PASSPHRASE).exists("f")
    before = len(key_server.connections)
    error = refused(
        key_server.storage(**locked), AuthenticationError, "is encrypted: set the option"
    )
    secretless(error)
    wrong = key_server.storage(**locked, passphrase="wrong-Pa55phrase")
    error = refused(wrong, AuthenticationError, "the passphrase the right one")
    secretless(error, "wrong-Pa55phrase")
    # None of this reached the server.
    assert len(key_server.connections) == before


def test_a_passphrase_that_is_not_needed(key_server, keys):
    storage = key_server.storage(
        password=None, key_filename=keys / "ed25519", passphrase="for nothing"
    )
    assert not storage.exists("f")


def test_key_filename_in_the_home_directory(key_server, keys, monkeypatch):
    monkeypatch.setenv("HOME", str(keys))
    assert not key_server.storage(password=None, key_filename="~/ecdsa").exists("f")


BROKEN = {
    "empty": "",
    "words": "my dog's name",
    "public": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SaXjgLA7gkD48eLY8mNO+Jqdc4ECs8vL",
    "dsa": "-----BEGIN DSA PRIVATE KEY-----\nMIIBuwIBAAKBgQD=\n-----END DSA PRIVATE KEY-----\n",
    "no-end": "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0IHN0dWZm\n",
    "no-base64": (
        "-----BEGIN OPENSSH PRIVATE KEY-----\n!!secret!!\n-----END OPENSSH PRIVATE KEY-----"
    ),
    "nothing-in-it": "-----BEGIN OPENSSH PRIVATE KEY-----\n-----END OPENSSH PRIVATE KEY-----\n",
    "other-content": (
        "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0IHN0dWZm\n-----END OPENSSH PRIVATE KEY-----"
    ),
    "pem-content": "-----BEGIN RSA PRIVATE KEY-----\nc2VjcmV0\n-----END RSA PRIVATE KEY-----",
    "ec-content": "-----BEGIN EC PRIVATE KEY-----\nc2VjcmV0\n-----END EC PRIVATE KEY-----",
    "pem-headers": (
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: NONE\n\n"
        "c2VjcmV0\n-----END RSA PRIVATE KEY-----"
    ),
}


@pytest.mark.parametrize("what", [*BROKEN, "cut", "scrambled"])
@pytest.mark.parametrize("given", ["text", "file"])
def test_keys_that_are_none(tmp_path, keys, what, given, secretless):
    whole = (keys / "ed25519").read_text().splitlines()
    text = {
        "cut": "\n".join([*whole[:3], whole[-1]]),
        "scrambled": "\n".join([whole[0], *reversed(whole[1:-1]), whole[-1]]),
    }.get(what) or BROKEN[what]  # fmt: skip
    options: dict[str, Any] = {"private_key": text}
    if given == "file":
        (tmp_path / "key").write_text(text)
        options = {"key_filename": tmp_path / "key"}
    storage = SFTPStorage(host="127.0.0.1", port=free_port(), username="u", **options)
    error = refused(storage, AuthenticationError, "holds no key that can be used")
    assert next(iter(options)) in str(error)
    secretless(error, "c2VjcmV0", "!!secret!!", "my dog", *whole[1:-1])


@pytest.mark.parametrize("what", ["missing", "directory", "binary"])
def test_key_files_that_cannot_be_read(tmp_path, what):
    path = tmp_path if what == "directory" else tmp_path / "key"
    if what == "binary":
        path.write_bytes(bytes(range(256)))
    storage = SFTPStorage(host="127.0.0.1", username="u", key_filename=path)
    error = refused(storage, AuthenticationError, "which cannot be read")
    assert str(path) in str(error)


def test_a_key_that_the_server_does_not_know(scripted, tmp_path):
    class KeysOnly(Login):
        def password_auth_supported(self) -> bool:
            return False

    known = asyncssh.import_authorized_keys(ssh_key(tmp_path / "known"))
    ssh_key(tmp_path / "unknown")
    server = scripted(login=KeysOnly, authorized_client_keys=known)
    storage = server.storage(password=None, key_filename=tmp_path / "unknown")
    error = refused(storage, AuthenticationError, "by publickey")
    assert "key_filename" in str(error)
    # A password is tried after the key, and the error says what the server would take.
    storage = server.storage(key_filename=tmp_path / "unknown")
    error = refused(storage, AuthenticationError, "by publickey, password")
    assert "it allows publickey" in str(error)


def test_a_key_then_the_password(scripted, keys):
    """A key that the server does not know is no obstacle where the password is right."""
    storage = scripted().storage(key_filename=keys / "ed25519")
    assert not storage.exists("f")


def test_two_factors(running, keys):
    """A server that wants the key and then the password gets both."""
    server = running(Stepwise, ("publickey", "password"))
    key = {"key_filename": str(keys / "ecdsa")}
    both = SFTPStorage(**server.options, **key, password=PASSWORD)
    assert connected(both).is_authenticated()
    both.pool.close()
    wrong = SFTPStorage(**server.options, **key, password="wrong")
    refused(wrong, AuthenticationError, "by password")
    one = SFTPStorage(**server.options, **key)
    error = refused(one, AuthenticationError, "by one factor")
    assert "it allows password" in str(error)


class Interactive(Login):
    """Asks for the password by a prompt, as PAM does."""

    prompts: ClassVar = [("Password: ", False)]

    def password_auth_supported(self) -> bool:
        return False

    def kbdint_auth_supported(self) -> bool:
        return True

    def get_kbdint_challenge(self, username: str, lang: str, submethods: str) -> Any:
        return "", "", "", self.prompts

    def validate_kbdint_response(self, username: str, responses: list[str]) -> bool:
        self.server.attempts += [("interactive", response) for response in responses]
        return responses == [PASSWORD]


def test_a_password_that_is_prompted_for(scripted, secretless):
    server = scripted(login=Interactive)
    assert not server.storage().exists("f")
    assert server.attempts == [("interactive", PASSWORD)]
    error = refused(server.storage(password="wrong-Pa55word"), AuthenticationError, "by password")
    secretless(error, "wrong-Pa55word")


def test_a_prompt_for_more_than_the_password(scripted, secretless):
    """Nobody is there to read a one-time code: the password is not typed in its place."""

    class Code(Interactive):
        prompts: ClassVar = [("Password: ", False), ("One-time code: ", False)]

    server = scripted(login=Code)
    error = refused(server.storage(), AuthenticationError)
    secretless(error)
    assert server.attempts == []


# --- the agent ----------------------------------------------------------------------------------


@pytest.fixture
def agent(tmp_path, monkeypatch) -> Iterator[Callable[..., None]]:
    """A real ssh-agent; call it with key files to add."""
    if reason := missing("ssh-agent", "ssh-add"):
        pytest.skip(reason)
    address = str(tmp_path / "agent")
    process = subprocess.Popen(
        ["ssh-agent", "-D", "-a", address], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    # It tells its address once it listens.
    assert address.encode() in process.stdout.readline()
    process.stdout.close()
    monkeypatch.setenv("SSH_AUTH_SOCK", address)

    def add(*paths: Path) -> None:
        subprocess.run(["ssh-add", "-q", *paths], check=True, capture_output=True)

    yield add
    process.terminate()
    process.wait()


@pytest.mark.parametrize("name", ["ed25519", "ecdsa", "rsa"])
def test_a_key_in_the_agent(key_server, keys, agent, name):
    agent(keys / name)
    storage = key_server.storage(password=None)
    assert storage.save("f", ContentFile(b"content")) == "f"
    # A second connection asks the agent again.
    storage.pool.drain()
    assert storage.exists("f")


def test_the_agents_keys_are_tried_in_turn(sshd, keys, agent):
    agent(keys / "rsa", keys / "ecdsa", sshd.client_key)
    storage = SFTPStorage(**sshd.options | {"key_filename": None})
    assert not storage.exists("f")
    storage.pool.close()


def test_an_agent_without_keys(key_server, agent):
    refused(key_server.storage(password=None), AuthenticationError, "nothing to log in")


def test_the_agent_is_left_alone_where_there_is_a_password(scripted, keys, agent):
    agent(keys / "ed25519")
    server = scripted()
    assert not server.storage().exists("f")
    assert server.attempts == [("password", PASSWORD)]


# Nor does it close the socket to one that does not do its work.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_agent_that_talks_nonsense(key_server, loop, monkeypatch, tmp_path):
    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\0\0\0\1\xff")
        await writer.drain()
        writer.close()

    path = str(tmp_path / "agent")
    server = loop.run(asyncio.start_unix_server(nonsense, path))
    monkeypatch.setenv("SSH_AUTH_SOCK", path)
    refused(key_server.storage(password=None), AuthenticationError, "SSH agent")

    async def close() -> None:
        server.close()

    loop.run(close())
    gc.collect()


def test_too_many_keys(agent, tmp_path):
    """OpenSSH ends the connection after MaxAuthTries; the error says why that may be."""
    for server in started(Sshd(extra=["MaxAuthTries 2"])):
        for number in range(4):
            ssh_key(tmp_path / f"key{number}")
            agent(tmp_path / f"key{number}")
        storage = SFTPStorage(**server.options | {"key_filename": None})
        error = refused(storage, AuthenticationError, "after trying publickey, publickey")
        assert "too many attempts" in str(error)


# --- servers that are none, or stall -------------------------------------------------------------


@pytest.mark.parametrize(
    ("says", "closes", "match"),
    [
        pytest.param(b"", False, r"within 0\.5 s \(connect_timeout\)", id="silent"),
        pytest.param(b"SSH-2.0-Open", False, "within 0.5 s .connect_timeout", id="half-banner"),
        pytest.param(b"SSH-2.0-Hi\r\n", False, r"within 0\.5 s \(connect_timeout\)", id="banner"),
        pytest.param(b"Hello\r\n" * 5, False, r"within 0\.5 s \(connect_timeout\)", id="talks"),
        pytest.param(b"", True, "does not answer as an SSH server", id="closes"),
        pytest.param(b"SSH-2.0-Hi\r\n", True, "ended the connection", id="banner-and-closes"),
        pytest.param(
            b"HTTP/1.1 400 Bad Request\r\n\r\n<html>\r\n", True, "Check the options host and port",
            id="http",
        ),
        pytest.param(b"220 FTP ready\r\n", True, "does not answer as an SSH server", id="ftp"),
        pytest.param(bytes(range(256)) * 8, True, "does not answer as an SSH server", id="noise"),
        pytest.param(b"x\n" * 200, True, "does not answer as an SSH server", id="many-lines"),
        pytest.param(b"SSH-1.5-Old\r\n", True, "Incompatible version|algorithm", id="version-1"),
        pytest.param(
            b"SSH-2.0-Hi\r\n" + (2**31 - 4).to_bytes(4, "big") + bytes(64), False,
            "announced a packet of 21474", id="huge-packet",
        ),
        pytest.param(bytes(2**20), False, "does not answer as an SSH server", id="endless-banner"),
        pytest.param(
            b"SSH-2.0-Hi\r\n" + b"\xff" * 99, True, "ended the connection", id="garbled"
        ),
    ],
)  # fmt: skip
def test_what_is_no_ssh_server(running, says, closes, match):
    listener = running(Deaf, says, closes=closes)
    storage = SFTPStorage(
        host="127.0.0.1", port=listener.port, username="u", password="p", connect_timeout=SHORT
    )
    error = refused(storage, match=match)
    assert f"sftp://127.0.0.1:{listener.port}" in str(error)


@pytest.fixture(scope="module")
def bytes_down(loop) -> int:
    """How much a server sends until a session is open."""
    server, proxies = Scripted(loop), []
    try:
        proxies.append(Proxy(loop, server.port))
        storage = server.storage(port=proxies[0].port)
        with storage.pool.connection():
            down = proxies[0].down
    finally:
        server.stop()
        for proxy in proxies:
            proxy.stop()
    return down


# From the first byte of the banner over the key exchange, the login, the channel and the
# subsystem to the last byte of the last answer.
@pytest.mark.parametrize("part", [0.01, 0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.96, 0.99])
def test_a_server_that_stalls(scripted, running, bytes_down, part):
    server = scripted()
    proxy = running(Proxy, server.port, down=int(bytes_down * part))
    storage = server.storage(port=proxy.port, connect_timeout=SHORT)
    error = refused(storage, match=r"within 0\.5 s \(connect_timeout\)")
    assert f"sftp://127.0.0.1:{proxy.port} did not answer in time" in str(error)


@pytest.mark.parametrize("part", [0.01, 0.3, 0.6, 0.8, 0.9, 0.96])
def test_a_server_that_goes_while_connecting(scripted, running, bytes_down, part):
    """An error at once; the deadline has nothing to do with it."""
    server = scripted()
    proxy = running(Proxy, server.port, down=int(bytes_down * part), closes=True)
    error = refused(server.storage(port=proxy.port), kind=None)
    assert "connect_timeout" not in str(error)


def test_a_login_that_is_never_answered(scripted, secretless):
    class Slow(Login):
        async def validate_password(self, username: str, password: str) -> bool:
            await asyncio.Event().wait()
            return True

    storage = scripted(login=Slow).storage(connect_timeout=SHORT)
    error = refused(storage, match=r"did not answer the login within 0\.5 s|fell silent within")
    secretless(error)


def test_a_subsystem_that_is_never_answered(running):
    server = running(Stepwise, stalls=True)
    storage = SFTPStorage(**server.options, password=PASSWORD, connect_timeout=SHORT)
    refused(storage, match=r"within 0\.5 s \(connect_timeout\)")


def test_a_session_outlives_the_time_to_connect(scripted):
    """The deadline is for connecting only."""
    released = threading.Event()

    def later(peer: Any, request: Any) -> None:
        if request.name == "STAT":
            released.wait(10)

    server = scripted(later)
    server.put("f", b"content")
    storage = server.storage(connect_timeout=SHORT)
    assert storage.exists("f")
    timer = threading.Timer(SHORT * 2, released.set)
    timer.start()
    assert storage.size("f") == 7
    timer.join()
    assert storage.pool.stats().connects == 1


def test_a_server_without_sftp(scripted):
    refused(scripted(subsystem=False).storage(), match="does not offer SFTP to this user")


def test_an_openssh_without_sftp():
    class Without(Sshd):
        def configure(self) -> None:
            super().configure()
            path = self.folder / "sshd_config"
            lines = path.read_text().splitlines()
            path.write_text("\n".join(x for x in lines if not x.startswith("Subsystem")) + "\n")

    for server in started(Without()):
        refused(SFTPStorage(**server.options), match="does not offer SFTP to this user")


def test_an_openssh_whose_sftp_server_is_missing():
    class Missing(Sshd):
        def __init__(self) -> None:
            super().__init__()
            self.subsystem = "/nowhere/sftp-server"

    for server in started(Missing()):
        refused(SFTPStorage(**server.options), match="is the server's SFTP program there")


def test_a_server_that_allows_no_sessions(scripted):
    class NoSessions(Login):
        def session_requested(self) -> Any:
            return False

    error = refused(scripted(login=NoSessions).storage())
    assert "connect_timeout" not in str(error)


def test_a_failed_connect_is_not_repeated_at_once(scripted):
    """The pool tells the error again instead of trying a wrong password once more."""
    server = scripted()
    storage = server.storage(password="wrong")
    for _ in range(3):
        with pytest.raises(AuthenticationError):
            storage.exists("f")
    assert len(server.attempts) == 1


def test_many_failures_leave_no_descriptors(scripted, running):
    """Each kind of failure once to warm up, then again: the number of open files stays."""
    server = scripted()
    silent = running(Deaf)
    closing = running(Deaf, closes=True)

    timeouts = itertools.count(30)
    before = transports()

    def fail() -> None:
        for options in (
            {"password": "wrong"},
            {"host_key": "SHA256:" + "A" * 43},
            {"port": silent.port, "connect_timeout": 0.2},
            {"port": closing.port},
            {"port": free_port()},
        ):
            refused(server.storage(**options, timeout=next(timeouts)), None)
        for thread in transports() - before:
            thread.join(5)

    def ours() -> int:
        """Sockets that are connected to one of the servers, or were."""
        ports = {server.port, silent.port, closing.port}
        found = 0
        for each in gc.get_objects():
            # Not isinstance(), which would wake Django's lazy objects.
            if issubclass(type(each), socket.socket) and each.fileno() >= 0:
                with suppress(OSError):
                    peer = each.getpeername()
                    found += isinstance(peer, tuple) and peer[1] in ports
        return found

    fail()
    assert transports() <= before
    assert ours() == 0
