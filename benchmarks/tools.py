"""The programs that a user knows, each run as a whole: start, login, one transfer, end."""

from __future__ import annotations

import contextlib
import os
import posixpath
import shlex
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar, Literal

from tests.servers.keeper import adopt_orphans

from .measure import cpu_seconds

Verb = Literal["get", "put"]
Options = dict[str, Any]


class Tool:
    """A program that copies one file.

    Args:
        options: What netstorage's storage class takes.
    """

    label: ClassVar[str]
    program: ClassVar[str]

    def __init__(self, options: Options) -> None:
        if shutil.which(self.program) is None:
            raise NotImplementedError(f"{self.program} is not installed")
        self.options = options

    def command(self, verb: Verb, name: str, path: str) -> list[str]:
        """The command that copies ``name`` on the server from or to the local ``path``."""
        raise NotImplementedError

    def remote(self, name: str) -> str:
        return posixpath.join(self.options["location"], name)

    @property
    def ssh(self) -> list[str]:
        """OpenSSH's options: our key, our host key, nobody's configuration."""
        options = self.options
        known = Path(tempfile.mkstemp(suffix="-known_hosts")[1])
        known.write_text(f"[{options['host']}]:{options['port']} {options['host_key']}\n")
        return [
            "-F/dev/null",
            f"-oIdentityFile={options['key_filename']}",
            "-oIdentitiesOnly=yes",
            f"-oUserKnownHostsFile={known}",
            "-oBatchMode=yes",
        ]


class OpenSSH(Tool):
    label = "OpenSSH sftp"
    program = "sftp"
    more: ClassVar[list[str]] = []

    def command(self, verb: Verb, name: str, path: str) -> list[str]:
        first, second = (self.remote(name), path) if verb == "get" else (path, self.remote(name))
        batch = Path(tempfile.mkstemp(suffix="-batch")[1])
        batch.write_text(f"{verb} {shlex.quote(first)} {shlex.quote(second)}\n")
        port = f"-P{self.options['port']}"
        login = f"{self.options['username']}@{self.options['host']}"
        return ["sftp", "-q", *self.ssh, *self.more, port, f"-b{batch}", login]


class OpenSSHTuned(OpenSSH):
    label = "OpenSSH sftp, AES-GCM, 255 KiB"
    more: ClassVar[list[str]] = ["-oCiphers=aes128-gcm@openssh.com", "-B261120"]


class Rclone(Tool):
    label = "rclone"
    program = "rclone"
    more: ClassVar[list[str]] = []

    @property
    def login(self) -> list[str]:
        """What leads to the server as ``:sftp:`` or ``:webdav:``, and nobody's configuration."""
        options = self.options
        nobody = ["--config=/dev/null", "-q"]
        if "url" in options:
            password = subprocess.run(
                ["rclone", "obscure", "--", options["password"]],
                capture_output=True,
                text=True,
                check=True,
            ).stdout.strip()
            login = [f"--webdav-url={options['url']}", f"--webdav-user={options['username']}"]
            return [*nobody, *login, f"--webdav-pass={password}"]
        login = [f"--sftp-host={options['host']}", f"--sftp-port={options['port']}"]
        login += [f"--sftp-user={options['username']}"]
        return [*nobody, *login, f"--sftp-key-file={options['key_filename']}"]

    def remote(self, name: str) -> str:
        return f":webdav:{name}" if "url" in self.options else f":sftp:{super().remote(name)}"

    def command(self, verb: Verb, name: str, path: str) -> list[str]:
        first, second = (self.remote(name), path) if verb == "get" else (path, self.remote(name))
        return ["rclone", *self.login, *self.more, "copyto", first, second]


SENSIBLE = [
    "--sftp-chunk-size=255k",
    "--transfers=64",
    "--checkers=64",
    # Without these it reads the file once more on the server, to compare checksums.
    "--sftp-disable-hashcheck",
    "--ignore-checksum",
]


class Rclone255(Rclone):
    label = "rclone, 255 KiB"
    more: ClassVar[list[str]] = SENSIBLE


class Rclone255Single(Rclone):
    label = "rclone, 255 KiB, one stream"
    more: ClassVar[list[str]] = [*SENSIBLE, "--multi-thread-streams=0"]


class Rclone255Deep(Rclone):
    label = "rclone, 255 KiB, 256 in flight"
    more: ClassVar[list[str]] = [*SENSIBLE, "--sftp-concurrency=256"]


class Lftp(Tool):
    label = "lftp"
    program = "lftp"

    def command(self, verb: Verb, name: str, path: str) -> list[str]:
        options = self.options
        program = shlex.join(["ssh", "-a", "-x", *self.ssh])
        login = f"-u {options['username']}, -p {options['port']} sftp://{options['host']}"
        remote = self.remote(name)
        source, target = (remote, path) if verb == "get" else (path, remote)
        script = [
            "set xfer:clobber yes",
            "set cmd:fail-exit yes",
            f'set sftp:connect-program "{program}"',
            f"open {login}",
            f"{verb} {source} -o {target}",
        ]
        return ["lftp", "--norc", "-c", "; ".join(script)]


class Curl(Tool):
    label = "curl"
    program = "curl"

    def command(self, verb: Verb, name: str, path: str) -> list[str]:
        options = self.options
        if "url" in options:
            url = options["url"] + name
            login = [f"-u{options['username']}:{options['password']}"]
        else:
            url = f"sftp://{options['host']}:{options['port']}{self.remote(name)}"
            # libssh2 wants known hosts in a form of its own.
            login = ["-k", "-u", f"{options['username']}:", "--key", options["key_filename"]]
        copy = ["-o", path] if verb == "get" else ["-T", path]
        return ["curl", "-sS", "-f", *login, *copy, url]


RCLONES = [Rclone.label, Rclone255.label, Rclone255Single.label, Rclone255Deep.label]
"""The settings of which the best counts."""
TOOLS: dict[str, type[Tool]] = {
    tool.label: tool
    for tool in (
        OpenSSH, OpenSSHTuned, Rclone, Rclone255, Rclone255Single, Rclone255Deep, Lftp, Curl
    )
}  # fmt: skip


def copy(label: str, options: Options, verb: Verb, name: str, path: str) -> dict[str, float]:
    """Run a tool once, in a child process; CPU includes all processes that it starts."""
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        return run(label, TOOLS[label](options).command(verb, name, path))


def run(label: str, command: list[str], folder: str | None = None) -> dict[str, float]:
    """Run a command once and time it, with all processes that it starts, in a child process."""
    adopt_orphans()
    before = cpu_seconds()
    started = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    wall = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"{label} ended with {done.returncode}: {done.stderr.strip()}")
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    return {"wall": wall, "cpu": cpu_seconds() - before}
