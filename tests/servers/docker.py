"""OpenSSH and Apache in containers, from the compose file that users start by hand as well."""

from __future__ import annotations

import functools
import os
import secrets
import shlex
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any, ClassVar

import httpx

from tests.servers.base import Server, free_port
from tests.servers.keys import ssh_key

COMPOSE_FILE = Path(__file__).parents[2] / "docker" / "compose.yaml"
START_SECONDS = 30.0


def _succeeds(*command: str) -> bool:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


@functools.cache
def compose_command() -> str | None:
    """The spelling of Compose that this machine has: version 2's, version 1's or none."""
    for command in ("docker compose", "docker-compose"):
        if _succeeds(*command.split(), "version"):
            return command
    return None


@functools.cache
def unavailable() -> str | None:
    """Why no container can run here, None when one can."""
    if shutil.which("docker") is None:
        return "Docker is not installed"
    if not os.environ.get("DOCKER_HOST", "unix://").startswith("unix://"):
        return "the Docker engine is on another machine, and ports are published on 127.0.0.1"
    if not _succeeds("docker", "version"):
        return "no Docker engine answers"
    if compose_command() is None:
        return "Docker Compose is not installed"
    return None


class Composition:
    """What one run of the compose file is given: ports, a password and a key.

    Args:
        folder: Where the key is made.
    """

    def __init__(self, folder: Path) -> None:
        self.username = "netstorage"
        self.password = secrets.token_urlsafe(16)
        self.client_key = folder / "client_key"
        self._variables = {
            "NETSTORAGE_PASSWORD": self.password,
            "NETSTORAGE_AUTHORIZED_KEY": ssh_key(self.client_key),
            # Chosen here, as Docker's own choice would change at a restart.
            "NETSTORAGE_SFTP_PORT": str(free_port()),
            "NETSTORAGE_WEBDAV_PORT": str(free_port()),
            # Version 1 is a Python program, whose warnings would be taken for its answers.
            "PYTHONDEVMODE": "",
            "PYTHONWARNINGS": "",
        }

    @property
    def command(self) -> str:
        """Compose with its variables, as a shell's command line."""
        variables = " ".join(f"{name}={shlex.quote(v)}" for name, v in self._variables.items())
        return f"{variables} {compose_command()}"


class Container(Server):
    """One service of the compose file, started by pytest-docker's ``docker_services``.

    Args:
        composition: What the services were given.
        services: pytest-docker's `Services`.
        compose: pytest-docker's `DockerComposeExecutor`.
    """

    service: ClassVar[str]
    inner_port: ClassVar[int]
    root = None
    small: ClassVar[str]
    """A location on a disk of 2 MB, to fill it."""

    def __init__(self, composition: Composition, services: Any, compose: Any) -> None:
        self.composition = composition
        self._services = services
        self._compose = compose

    @classmethod
    def unavailable(cls) -> str | None:
        return unavailable()

    def answers(self) -> bool:
        """Whether the server answers in its protocol."""
        raise NotImplementedError

    def start(self):
        self.port = self._services.port_for(self.service, self.inner_port)
        self._services.wait_until_responsive(self.answers, timeout=START_SECONDS, pause=0.05)
        return self

    def stop(self) -> None:
        """Nothing: ``docker_services`` stops all containers at the end."""

    def restart(self) -> None:
        """Restart the container: same port, same keys, and its files stay."""
        self._compose.execute(f"restart -t 2 {self.service}")
        self._services.wait_until_responsive(self.answers, timeout=START_SECONDS, pause=0.05)

    def run(self, command: str) -> str:
        """Run a shell command in the container, as root, and return what it printed."""
        output = self._compose.execute(f"exec -T {self.service} sh -c {shlex.quote(command)}")
        return output.decode()


class DockerSshd(Container):
    """OpenSSH: SFTP only, the user shut into a folder, by password or `client_key`."""

    name = "docker-sshd"
    protocol = "sftp"
    service = "sshd"
    inner_port = 22
    small = "/small"
    host_key = ""

    @property
    def client_key(self) -> Path:
        """The private key that may log in too."""
        return self.composition.client_key

    @property
    def options(self) -> dict[str, Any]:
        return {
            "host": self.host,
            "port": self.port,
            "username": self.composition.username,
            "password": self.composition.password,
            "host_key": self.host_key,
        }

    def start(self):
        super().start()
        self.host_key = self.run("cat /etc/ssh/ssh_host_ed25519_key.pub").strip()
        return self

    def answers(self) -> bool:
        # Docker's proxy accepts connections before the server does: wait for its words.
        try:
            with socket.create_connection((self.host, self.port), timeout=1) as connection:
                connection.settimeout(5)
                return connection.recv(64).startswith(b"SSH-")
        except OSError:
            return False


class DockerApache(Container):
    """Apache with mod_dav and basic authentication."""

    name = "docker-apache"
    protocol = "webdav"
    service = "apache"
    inner_port = 80
    small = "small"

    @property
    def options(self) -> dict[str, Any]:
        return {
            "url": f"http://{self.host}:{self.port}/dav/",
            "username": self.composition.username,
            "password": self.composition.password,
        }

    def answers(self) -> bool:
        try:
            return httpx.options(self.options["url"], timeout=5).status_code == 401
        except httpx.TransportError:
            return False
