"""Servers for the whole suite.

A test that asks for `server` (or for `storage`, which stands on it) runs on every server that can
run here; `any_sftp` and `any_webdav` are the halves. Each server starts when a test first needs
it, once in a session.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings
from pytest_docker.plugin import DockerComposeExecutor

from netstorage import telemetry
from tests.servers import SERVERS, SFTP, WEBDAV, docker, fresh_location, make_storage
from tests.servers.base import Server
from tests.servers.scripted import Loop, Scripted
from tests.telling import Told

pytest_plugins = ["netstorage.testing.fixtures"]

# The same examples each time, however slow the machine: a failure is one of the code.
settings.register_profile("suite", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("suite")

EMBEDDED = {"embedded-sftp", "embedded-webdav"}
"""Servers that are met everywhere."""
FEW = EMBEDDED | {"sshd", "apache"}
"""Servers that are enough for what stands on the Storage API alone."""


def pytest_configure() -> None:
    """Hear Ctrl-C: a shell's background jobs are deaf to it, and so would be our children."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what would only be repeated on more servers.

    A module that stands on the Storage API alone says FEW_SERVERS, since the contract covers the
    rest. What differs between Pythons and Djangos is no server that is installed, so the matrix has
    ``NETSTORAGE_SERVERS=embedded``; beside it, ``installed`` leaves to it the embedded of the few.
    """
    chosen = os.environ.get("NETSTORAGE_SERVERS", "all")

    def is_kept(item: pytest.Item) -> bool:
        params = getattr(item, "callspec", None) and item.callspec.params
        few = getattr(item.module, "FEW_SERVERS", False)
        if not params or not (few or chosen == "embedded"):
            return True
        met = {"all": FEW, "installed": FEW - EMBEDDED, "embedded": EMBEDDED}[chosen] | {None}
        return all(params.get(name) in met for name in ("server", "any_sftp", "any_webdav"))

    kept = [item for item in items if is_kept(item)]
    config.hook.pytest_deselected(items=[item for item in items if not is_kept(item)])
    items[:] = kept


class Running:
    """The servers of this session, started on demand."""

    def __init__(self) -> None:
        self._servers: dict[str, Server] = {}
        self._failures: dict[str, Exception] = {}

    def get(self, name: str, request: pytest.FixtureRequest) -> Server:
        """The running server of this name; skips the test when it cannot run here."""
        reason = SERVERS[name].unavailable()
        if reason:
            pytest.skip(f"{name}: {reason}")
        if name in self._failures:
            # It took its time to fail; all other tests fail for the same reason at once.
            raise self._failures[name]
        if name not in self._servers:
            factory = SERVERS[name]
            if issubclass(factory, docker.Container):
                server: Server = request.getfixturevalue("containers")[name]
            else:
                server = factory()
            try:
                self._servers[name] = server.start()
            except Exception as error:
                self._failures[name] = error
                raise
        return self._servers[name]

    def stop(self) -> None:
        for server in self._servers.values():
            server.stop()


@pytest.fixture(scope="session")
def running_servers() -> Iterator[Running]:
    """All servers that were started so far; they stop at the session's end."""
    running = Running()
    yield running
    running.stop()


@pytest.fixture(scope="session", params=list(SERVERS))
def server(request: pytest.FixtureRequest, running_servers: Running) -> Server:
    """Each server in turn."""
    return running_servers.get(request.param, request)


@pytest.fixture(scope="session", params=SFTP)
def any_sftp(request: pytest.FixtureRequest, running_servers: Running) -> Server:
    """Each SFTP server in turn."""
    return running_servers.get(request.param, request)


@pytest.fixture(scope="session", params=WEBDAV)
def any_webdav(request: pytest.FixtureRequest, running_servers: Running) -> Server:
    """Each WebDAV server in turn."""
    return running_servers.get(request.param, request)


@pytest.fixture
def storage(server: Server):
    """A storage on each server in turn, at a location of its own that does not exist yet."""
    return make_storage(server, location=fresh_location(server))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    """What is told to OpenTelemetry from now on."""
    told = Told()
    monkeypatch.setattr(telemetry, "_opentelemetry", told.opentelemetry)
    yield told
    told.stop()


# --- containers, by pytest-docker ---------------------------------------------------------------


@pytest.fixture(scope="session")
def composition(tmp_path_factory: pytest.TempPathFactory) -> docker.Composition:
    reason = docker.unavailable()
    if reason:
        pytest.skip(reason)
    return docker.Composition(tmp_path_factory.mktemp("docker"))


@pytest.fixture(scope="session")
def docker_compose_command(composition: docker.Composition) -> str:
    return composition.command


@pytest.fixture(scope="session")
def docker_compose_file() -> str:
    return str(docker.COMPOSE_FILE)


@pytest.fixture(scope="session")
def docker_setup() -> list[str]:
    # Not pytest-docker's --wait, which docker-compose 1 does not know.
    return ["up --build -d"]


@pytest.fixture(scope="session")
def docker_cleanup() -> list[str]:
    return ["down -v -t 2"]


@pytest.fixture(scope="session")
def containers(
    composition,
    docker_services,
    docker_compose_command,
    docker_compose_file,
    docker_compose_project_name,
) -> dict[str, docker.Container]:
    """The services of the compose file, by their names in `SERVERS`."""
    compose = DockerComposeExecutor(
        docker_compose_command, docker_compose_file, docker_compose_project_name
    )
    factories = (docker.DockerSshd, docker.DockerApache)
    return {each.name: each(composition, docker_services, compose) for each in factories}


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    """Where scripted servers run."""
    loop = Loop()
    yield loop
    loop.stop()


@pytest.fixture
def scripted(loop: Loop) -> Iterator[Callable[..., Scripted]]:
    """Makes scripted SFTP servers; they stop with the test."""
    servers: list[Scripted] = []

    def make(*args: Any, **options: Any) -> Scripted:
        servers.append(Scripted(loop, *args, **options))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()
