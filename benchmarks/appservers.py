"""Application servers, run as users run them, with ``site.py`` in them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.servers.base import free_port

from .child import ROOT, Absent, Failed, in_memory

GUNICORN = "gunicorn benchmarks.site:wsgi --bind 127.0.0.1:{} --no-control-socket"
GUNICORN += " --worker-class gthread --threads 50"
COMMANDS = {
    "gunicorn": GUNICORN,
    "gunicorn --no-sendfile": f"{GUNICORN} --no-sendfile",
    "uvicorn": "uvicorn benchmarks.site:asgi --port {}",
}
PATIENCE = 30


@dataclass
class AppServer:
    """A running one.

    Attributes:
        port: Where it listens, on 127.0.0.1.
        pid: The process that serves.
    """

    port: int
    pid: int = 0

    def ask(self, path: str) -> Any:
        """Get JSON."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=60) as answer:
            return json.load(answer)

    def cpu(self) -> float:
        """CPU seconds so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self, field: str) -> float:
        """``VmRSS`` or ``VmHWM``, in MiB."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
        assert found is not None
        return int(found[1]) / 1024

    def begin(self) -> tuple[float, float]:
        """Let the peak begin anew (proc(5): clear_refs); return MiB and CPU seconds so far."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")
        return self.memory("VmRSS"), self.cpu()


@contextmanager
def serving(name: str, **site: Any) -> Iterator[AppServer]:
    """Run one of COMMANDS; ``site`` is what ``site.py`` is told.

    Raises:
        Absent: It is not installed.
        Failed: It does not listen; the message is the last that it wrote.
    """
    port = free_port()
    module, *arguments = COMMANDS[name].format(port).split()
    if find_spec(module) is None:
        raise Absent(f"No module named {module!r}")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    environment |= {"TMPDIR": in_memory(), "SITE": json.dumps(site)}
    environment.pop("PYTHONDEVMODE", None)
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdout=said,
            stderr=said,
            cwd=ROOT,
            env=environment,
        ) as process,
    ):
        try:
            yield _first_answer(port, process)
        except OSError as error:
            said.seek(0)
            wrote = said.read().decode(errors="replace").strip()
            raise Failed(f"{wrote}\n{name}: {error}") from error
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()


def _first_answer(port: int, process: subprocess.Popen[bytes]) -> AppServer:
    until = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < until:
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port)).close()
            server = AppServer(port)
            server.pid = server.ask("look")["pid"]
            server.ask("looked")
            return server
        time.sleep(0.05)
    raise ConnectionRefusedError("it does not listen")
