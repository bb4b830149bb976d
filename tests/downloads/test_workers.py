"""Workers that were forked from a process which has served downloads itself."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from django.core.files.base import ContentFile

from tests.contract.helpers import private_storage
from tests.downloads.site import BIG, PATIENCE, Site, content, wait_until
from tests.servers import fresh_location
from tests.servers.base import free_port

GONE = 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_worker_downloads_by_threads_of_its_own(server, tmp_path):
    """Clients that go away are nothing to it either."""
    storage = private_storage(server, location=fresh_location(server))
    storage.save("big.bin", ContentFile(content(BIG)))
    options = server.options | {"location": storage.location}
    backend = {"BACKEND": f"netstorage.{type(storage).__name__}", "OPTIONS": options}
    site = Site(free_port())
    command = ["-m", "gunicorn", "tests.downloads.preloaded:application", "--no-control-socket"]
    workers = ["--preload", "--workers=1", "--worker-class=gthread", "--threads=4"]
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *command, *workers, "--bind", f"127.0.0.1:{site.port}"],
            cwd=Path(__file__).parents[2],
            env=os.environ | {"PROJECT_STORAGE": json.dumps(backend)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", site.port), PATIENCE).close()
            return True
        return False

    def stats() -> dict[str, int]:
        return json.loads(site.ask("/stats").body)

    try:
        wait_until(answers)
        first = stats()
        assert first["pid"] != first["loader"]
        assert first["connects"] == 0
        assert site.ask("/media/big.bin").body == content(BIG)
        for _ in range(GONE):
            with socket.create_connection(("127.0.0.1", site.port), PATIENCE) as sock:
                sock.sendall(b"GET /media/big.bin HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert sock.recv(12) == b"HTTP/1.1 200"
        wait_until(lambda: stats()["in_use"] == 0)
        assert site.ask("/media/big.bin").body == content(BIG)
        assert stats()["pid"] == first["pid"]
        process.terminate()
        assert process.wait(PATIENCE) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
