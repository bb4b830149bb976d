"""The parent's side of the embedded servers: start, stop, restart and kill a child process."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, Final

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

STOP_SECONDS: Final = 5.0
"""How long a server may take to stop before it is killed."""


class EmbeddedServer:
    """A server in a child process that serves one folder on 127.0.0.1.

    The child ends when this process ends, however that happens: it watches a pipe that only this
    process holds open. A temporary root is then removed too.

    Args:
        root: The folder to serve; it must exist and stays when the server stops. Without it the
            server makes a temporary folder, removed by `stop`.
        startup_timeout: Seconds within which the server must accept connections.
    """

    host: Final = "127.0.0.1"
    """Where the server listens; never another interface."""
    username: Final = "netstorage"

    protocol: ClassVar[str]
    """The protocol's name in messages."""
    module: ClassVar[str]
    """The module that the child runs."""
    requires: ClassVar[tuple[str, ...]]
    """Packages that the child imports."""

    def __init__(
        self, root: str | os.PathLike[str] | None = None, *, startup_timeout: float = 15.0
    ) -> None:
        for package in self.requires:
            if find_spec(package) is None:
                raise ImportError(
                    f"{type(self).__name__} needs {package}: install django-netstorage[testing]",
                    name=package,
                )
        self.password = secrets.token_urlsafe(16)
        self.port = 0
        """The port, chosen by the operating system; 0 while none was chosen."""
        self.process: subprocess.Popen[bytes] | None = None
        """The child process, None when there is none."""
        self._given_root = None if root is None else Path(root).absolute()
        self._root = self._given_root
        self._startup_timeout = startup_timeout
        self._log: IO[bytes] | None = None
        self._owner = 0

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = f"pid {self.process.pid}" if self.process else "stopped"
        return f"<{type(self).__name__} {self.host}:{self.port} {state}>"

    @property
    def root(self) -> Path:
        """The folder on this machine's disk that clients see as the server's root."""
        if self._root is None:
            raise RuntimeError(f"The {self.protocol} server has no folder before it is started.")
        return self._root

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments for the storage class, a new dict each time."""
        raise NotImplementedError

    def _config(self) -> dict[str, Any]:
        """What the child must know; it travels through the pipe, so no process list shows it."""
        return {
            "root": str(self.root),
            "remove_root": self._given_root is None,
            "host": self.host,
            "port": self.port,
            "username": self.username,
            "password": self.password,
        }

    def start(self) -> Self:
        """Start the server and return when it accepts connections.

        After `kill` the same folder is served on the same port again.

        Raises:
            RuntimeError: The server is running, or it did not start; the message then holds
                what the child wrote.
            NotADirectoryError: The given root is no folder.
        """
        if self.process is not None:
            raise RuntimeError(f"The {self.protocol} server is running already.")
        if self._root is None:
            self._root = Path(tempfile.mkdtemp(prefix="netstorage-")).resolve()
        elif not self._root.is_dir():
            raise NotADirectoryError(
                f"The {self.protocol} server cannot serve {self._root}: no such folder."
            )
        self._owner = os.getpid()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # closed by _end
        try:
            self.process = self._spawn(self._log)
            self.port = self._await_port(self.process)
        except BaseException:
            self.stop()
            raise
        return self

    def _spawn(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        environment = os.environ | {
            # The child finds the modules that this process finds, wherever they come from.
            "PYTHONPATH": os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path),
        }
        # A test suite turns warnings into errors for its own code, not for the server's.
        for strictness in ("PYTHONWARNINGS", "PYTHONDEVMODE"):
            environment.pop(strictness, None)
        return subprocess.Popen(  # noqa: S603  # our own interpreter and module
            [sys.executable, "-m", self.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # A file, since a pipe that nobody reads would stop the server once it is full.
            stderr=log,
            bufsize=0,
            cwd=Path(__file__).parents[2],
            env=environment,
            # Ctrl-C in a terminal is for the parent, which then stops the server.
            start_new_session=True,
        )

    def _await_port(self, process: subprocess.Popen[bytes]) -> int:
        assert process.stdout is not None  # noqa: S101  # Popen was told PIPE
        stdout = process.stdout
        line = b""

        def read() -> None:
            nonlocal line
            line = stdout.readline()

        # A thread, because select() knows no pipes on Windows.
        reader = threading.Thread(target=read, name="netstorage-testing-start", daemon=True)
        reader.start()
        # The child may be dead before it reads this: its own words say why.
        with contextlib.suppress(BrokenPipeError):
            self._tell(process, json.dumps(self._config()))
        reader.join(self._startup_timeout)
        late = reader.is_alive()
        if late:
            process.kill()
            reader.join()
        stdout.close()
        if line:
            return int(json.loads(line)["port"])
        process.wait()
        reason = f"no answer within {self._startup_timeout:g} s" if late else "it ended"
        raise RuntimeError(f"The {self.protocol} server did not start: {reason}.\n{self._said()}")

    @staticmethod
    def _tell(process: subprocess.Popen[bytes], line: str) -> None:
        assert process.stdin is not None  # noqa: S101  # Popen was told PIPE
        process.stdin.write(f"{line}\n".encode())

    def _said(self) -> str:
        """The end of what the child wrote to stderr."""
        if self._log is None:
            return ""
        self._log.seek(0)
        return self._log.read()[-4000:].decode(errors="replace").strip()

    def stop(self) -> None:
        """Stop the server and remove its temporary folder. Stopping twice is fine."""
        if self._owner != os.getpid():
            # After a fork the server belongs to the parent; its child must not take it down.
            return
        self._end("stop")
        if self._given_root is None and self._root is not None:
            # The child removed it, unless it was killed.
            shutil.rmtree(self._root, ignore_errors=True)
            self._root = None
        self.port = 0

    def restart(self) -> None:
        """Stop and start on the same port, with the same folder and the same secrets.

        All connections break, as in a real server's restart.
        """
        self._end("pause")
        self.start()

    def kill(self) -> None:
        """End the server without warning, as a crash would; `start` brings it back."""
        if self.process is not None:
            self.process.kill()
        self._end("pause")

    def _end(self, order: str) -> None:
        """Send the child its last order and wait for its end."""
        process, self.process = self.process, None
        if process is not None:
            with contextlib.suppress(BrokenPipeError):
                self._tell(process, order)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        log, self._log = self._log, None
        if log is not None:
            log.close()


class SFTPServer(EmbeddedServer):
    """An SFTP server: asyncssh in a child process.

    It has a random password and a host key of its own; clients cannot leave its root.

    Args:
        root: The folder to serve; it must exist and stays when the server stops. Without it the
            server makes a temporary folder, removed by `stop`.
        authorized_keys: Public keys that may log in too, as lines of an ``authorized_keys`` file.
        startup_timeout: Seconds within which the server must accept connections.
    """

    protocol = "SFTP"
    module = "netstorage.testing._sftp"
    requires = ("asyncssh",)

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        *,
        authorized_keys: str = "",
        startup_timeout: float = 15.0,
    ) -> None:
        super().__init__(root, startup_timeout=startup_timeout)
        self._authorized_keys = authorized_keys
        self._private_key, self.host_key = _make_host_key()

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments for `SFTPStorage`, a new dict each time."""
        return {
            "host": self.host,
            "port": self.port,
            "username": self.username,
            "password": self.password,
            "host_key": self.host_key,
        }

    def _config(self) -> dict[str, Any]:
        return super()._config() | {
            "private_key": self._private_key,
            "authorized_keys": self._authorized_keys,
        }


class WebDAVServer(EmbeddedServer):
    """A WebDAV server: wsgidav on cheroot in a child process.

    It has a random password, asked for by digest and accepted by basic authentication as well.
    """

    protocol = "WebDAV"
    module = "netstorage.testing._webdav"
    requires = ("wsgidav", "cheroot")

    @property
    def url(self) -> str:
        """The URL of the server's root, with its final slash."""
        return f"http://{self.host}:{self.port}/"

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments for `WebDAVStorage`, a new dict each time."""
        return {"url": self.url, "username": self.username, "password": self.password}


def _make_host_key() -> tuple[str, str]:
    """A new Ed25519 key: the private key's text and the public key's line."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return private.decode(), public.decode()
