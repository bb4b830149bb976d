"""Every server of the suite starts, answers, comes back, and goes without a trace."""

from __future__ import annotations

import os
import pwd
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import paramiko
import pytest

from tests.servers import SERVERS, Server
from tests.servers.apache import Apache
from tests.servers.base import ChildServer
from tests.servers.docker import Container
from tests.servers.keeper import descendants
from tests.servers.nginx import NginxProxy
from tests.servers.sshd import Sshd

CHILDREN = [factory for factory in SERVERS.values() if not issubclass(factory, Container)]
VARIANTS: dict[str, Callable[[], Server]] = {
    "sshd-external": lambda: Sshd(internal=False),
    "sshd-ordinary": lambda: Sshd(ordinary=True),
    "sshd-extra": lambda: Sshd(extra=["Ciphers aes128-ctr"]),
    "apache-digest": lambda: Apache(auth="digest"),
    "apache-open": lambda: Apache(auth=None),
    "apache-tls": lambda: Apache(tls=True),
    "apache-client-certificate": lambda: Apache(client_certificate=True),
    "apache-deflate": lambda: Apache(deflate=True),
    "apache-ordinary": lambda: Apache(ordinary=True),
}


def names(server: Server) -> set[str]:
    """What lies in the server's root, asked with nothing but the server's options."""
    options = server.options
    if server.protocol == "sftp":
        return set(sftp_names(options))
    response = propfind(options)
    if server.name == "nginx-plain":
        assert response.status_code == 405, response
        return {path.name for path in server.root.iterdir()}
    assert response.status_code == 207, response
    return {"seen.txt"} if "seen.txt" in response.text else set()


def sftp_names(options: dict) -> list[str]:
    with paramiko.Transport((options["host"], options["port"])) as transport:
        transport.start_client(timeout=10)
        assert transport.get_remote_server_key().get_base64() == options["host_key"].split()[1]
        if "key_filename" in options:
            key = paramiko.Ed25519Key.from_private_key_file(options["key_filename"])
            transport.auth_publickey(options["username"], key)
        else:
            transport.auth_password(options["username"], options["password"])
        client = paramiko.SFTPClient.from_transport(transport)
        assert client is not None
        return client.listdir(options.get("location", "."))


def tls_context(options: dict) -> ssl.SSLContext | bool:
    if "verify" not in options:
        return True
    context = ssl.create_default_context(cafile=options["verify"])
    if "cert" in options:
        context.load_cert_chain(options["cert"])
    return context


def propfind(options: dict) -> httpx.Response:
    auth: httpx.Auth | None = None
    if "username" in options:
        scheme = httpx.DigestAuth if options.get("auth") == "digest" else httpx.BasicAuth
        auth = scheme(options["username"], options["password"])
    with httpx.Client(auth=auth, verify=tls_context(options)) as client:
        headers = {"Depth": "1", "Content-Type": "application/xml"}
        return client.request("PROPFIND", options["url"], headers=headers)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def skip_unless_available(factory: type[Server]) -> None:
    if reason := factory.unavailable():
        pytest.skip(f"{factory.name}: {reason}")


def pids(server: Server) -> list[int]:
    return [server.process.pid, *descendants(server.process.pid)]


@pytest.mark.parametrize("factory", CHILDREN, ids=lambda factory: factory.name)
def test_a_server_starts_answers_and_leaves_nothing(factory):
    skip_unless_available(factory)
    server = factory()
    with server:
        root = server.root
        (root / "seen.txt").write_text("seen")
        assert names(server) == {"seen.txt"}
        before = server.options
        server.restart()
        assert server.options == before
        assert names(server) == {"seen.txt"}
        server.kill()
        server.start()
        assert server.options == before
        assert names(server) == {"seen.txt"}
        family = pids(server)
        started = time.monotonic()
    assert time.monotonic() - started < 5
    assert not [pid for pid in family if alive(pid)]
    assert not root.exists()


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_start_and_answer(variant):
    server = VARIANTS[variant]()
    skip_unless_available(type(server))
    shell = pwd.getpwuid(os.geteuid()).pw_shell
    if variant == "sshd-external" and shell.endswith(("/nologin", "/false")):
        pytest.skip("sshd starts a separate SFTP program by the user's shell, and there is none")
    with server:
        (server.root / "seen.txt").write_text("seen")
        assert names(server) == {"seen.txt"}


@pytest.mark.parametrize("tls", [False, True])
def test_a_proxy_shows_another_server(tls):
    skip_unless_available(NginxProxy)
    with (
        SERVERS["embedded-webdav"]() as upstream,
        NginxProxy(upstream.options["url"], tls=tls, options=upstream.options) as proxy,
    ):
        (upstream.root / "seen.txt").write_text("seen")
        assert proxy.options["url"].endswith("/files/")
        assert names(proxy) == {"seen.txt"}


@pytest.mark.parametrize(
    "factory",
    [factory for factory in CHILDREN if factory.protocol == "webdav"],
    ids=lambda factory: factory.name,
)
def test_what_a_server_stores_the_tests_can_change(factory):
    """Both sides read and write each other's files, whoever runs the suite."""
    skip_unless_available(factory)
    with factory() as server:
        options = server.options
        folder = server.root / "folder"
        folder.mkdir()
        (folder / "ours.txt").write_text("ours")
        auth = (options["username"], options["password"])
        verify = tls_context(options)
        with httpx.Client(auth=auth, base_url=options["url"], verify=verify) as client:
            assert client.put("folder/theirs.txt", content=b"theirs").is_success
            assert client.delete("folder/ours.txt").is_success
        (folder / "theirs.txt").write_text("changed")
        assert [path.name for path in folder.iterdir()] == ["theirs.txt"]


@pytest.mark.parametrize("name", [n for n, f in SERVERS.items() if issubclass(f, Container)])
def test_a_container_answers_and_comes_back(name, running_servers, request):
    server = running_servers.get(name, request)
    if server.protocol == "sftp":
        server.run("touch /srv/sftp/upload/seen.txt")
    else:
        server.run("touch /srv/www/dav/seen.txt")
    before = server.options
    assert "seen.txt" in names(server)
    server.restart()
    assert server.options == before
    assert "seen.txt" in names(server)


@pytest.mark.parametrize("factory", CHILDREN, ids=lambda factory: factory.name)
def test_a_server_ends_with_the_tests(factory, tmp_path):
    """Even a test process that is killed leaves no server and no folder."""
    skip_unless_available(factory)
    code = (
        "import json, sys\n"
        f"from {factory.__module__} import {factory.__name__} as Server\n"
        "from tests.servers.keeper import descendants\n"
        "server = Server().start()\n"
        "pid = server.process.pid\n"
        "print(json.dumps([pid, *descendants(pid)]), flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"TMPDIR": str(tmp_path)},
    ) as parent:
        family = [int(pid) for pid in parent.stdout.readline().strip(b"[]\n").split(b",")]
        assert all(alive(pid) for pid in family)
        assert list(tmp_path.iterdir())
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while any(alive(pid) and not zombie(pid) for pid in family) or list(tmp_path.iterdir()):
        assert time.monotonic() < deadline, (family, list(tmp_path.iterdir()))
        time.sleep(0.02)


def zombie(pid: int) -> bool:
    """Dead, and not yet reaped by this machine's first process."""
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], stdout=subprocess.PIPE)
    return done.stdout.strip().startswith(b"Z")


def test_a_server_that_does_not_start_says_why():
    class Broken(ChildServer):
        name = "broken"
        protocol = "sftp"

        def command(self) -> list[str]:
            return [sys.executable, "-c", "raise SystemExit('no such luck')"]

    with pytest.raises(RuntimeError, match=r"broken did not start:\n.*no such luck"):
        Broken().start()
