"""What all servers of the suite share: a folder, a free port, a process, and its end."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit, urlunsplit

from tests.servers import keeper

WORKER = "www-data"
"""An ordinary user, who runs a server when the tests are root's."""
START_SECONDS = 15.0
STOP_SECONDS = 5.0


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def missing(*paths: str) -> str | None:
    """The reason why a server cannot run when one of its files is not on this machine."""
    for path in paths:
        if not os.path.exists(path) and shutil.which(path) is None:
            return f"{path} is not installed"
    return None


def as_worker(*rights: str) -> list[str]:
    """What runs a command as an ordinary user, who has these of root's rights and no others.

    It needs ``setpriv``. Where the tests are not root's, they are an ordinary user's already.
    """
    if os.geteuid() != 0:
        return []
    user = pwd.getpwnam(WORKER)
    who = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    more = ",".join(f"+{right}" for right in rights)
    capabilities = [f"--inh-caps={more}", f"--ambient-caps={more}"] if more else []
    return ["setpriv", *who, *capabilities, "--"]


def give_to_worker(folder: Path) -> None:
    """Make that user the owner of a folder and all that is in it."""
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            shutil.chown(path, WORKER, WORKER)


class Server:
    """A server as the contract suite sees it."""

    name: ClassVar[str]
    protocol: ClassVar[str]
    """``"sftp"`` or ``"webdav"``."""

    host = "127.0.0.1"
    port = 0
    root: Path | None
    """The folder behind the storage's root, None when it is not on this machine's disk."""

    @classmethod
    def unavailable(cls) -> str | None:
        """Why this server cannot run here, None when it can."""
        return None

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments for the storage class, a new dict each time."""
        raise NotImplementedError

    def options_through(self, port: int) -> dict[str, Any]:
        """The same options by way of a line that listens on ``port`` of 127.0.0.1."""
        options = self.options
        if "url" not in options:
            return {**options, "port": port}
        url = urlsplit(options["url"])
        return {**options, "url": urlunsplit(url._replace(netloc=f"127.0.0.1:{port}"))}

    def start(self) -> Server:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError

    def restart(self) -> None:
        raise NotImplementedError

    def __enter__(self):
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<{self.name} {self.host}:{self.port}>"


class ChildServer(Server):
    """A server program started for the tests with a configuration of its own.

    Subclasses write the configuration (`configure`) and name the command (`command`). Everything
    lies in one temporary folder; `root` is below it.
    """

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.username = "netstorage"
        self.password = secrets.token_urlsafe(16)
        self._folder: Path | None = None

    @property
    def folder(self) -> Path:
        """Where configuration, logs and files lie."""
        assert self._folder is not None, "not started"
        return self._folder

    @property
    def log(self) -> Path:
        """What the program says."""
        return self.folder / "server.log"

    @property
    def root(self) -> Path:
        return self.folder / "www" / "dav"

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/dav/"

    @property
    def options(self) -> dict[str, Any]:
        return {"url": self.url, "username": self.username, "password": self.password}

    def configure(self) -> None:
        """Write the configuration for `port` below `folder`."""

    def command(self) -> list[str]:
        """The program and its arguments; it must stay in the foreground."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Additional environment variables."""
        return {}

    def start(self):
        """Start on a free port; after `kill`, on the same port and folder as before."""
        assert self.process is None, "is running"
        if self._folder is not None:
            self._start_process()
            return self
        self._folder = Path(tempfile.mkdtemp(prefix=f"netstorage-{self.name}-")).resolve()
        self.root.mkdir(parents=True, exist_ok=True)
        try:
            for attempt in range(3):
                self.port = free_port()
                self.configure()
                try:
                    self._start_process()
                except RuntimeError:
                    # Somebody else may have taken the port in the meantime.
                    if attempt == 2:
                        raise
                else:
                    break
        except BaseException:
            self.stop()
            raise
        return self

    def _start_process(self) -> None:
        for path in self.folder.glob("*.pid"):
            # After `kill` a server would take its own dead process for a rival.
            path.unlink()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-SE", keeper.__file__, str(self.folder), *self.command()],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                bufsize=0,
                cwd=self.folder,
                env=os.environ | self.environment(),
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            ended = self.process.poll() is not None
            if ended or time.monotonic() > deadline:
                self._end()
                said = self.log.read_text(errors="replace")[-4000:]
                raise RuntimeError(f"{self.name} did not start:\n{said}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection((self.host, self.port), timeout=1).close()
            return True
        return False

    def stop(self) -> None:
        self._end()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def restart(self) -> None:
        """Stop and start with the same port, folder and keys; all connections break."""
        self._end()
        self._start_process()

    def kill(self) -> None:
        """End everything without warning; `start` brings the same server back."""
        if self.process is not None:
            keeper.send(keeper.descendants(self.process.pid), signal.SIGKILL)
        self._end()

    def _end(self) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(b"x")
        process.stdin.close()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            family = keeper.descendants(process.pid)
            process.kill()
            keeper.send(family, signal.SIGKILL)
            process.wait()
