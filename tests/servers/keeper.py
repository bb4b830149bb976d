"""Run a server and end it, with all its children, when the test process ends.

Used as a script: ``python keeper.py FOLDER COMMAND...``. Standard input is a pipe that the test
process holds open; its end means that the process is gone, however it went, and then FOLDER is
removed as well. Only the standard library is imported, to start quickly.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

GRACE_SECONDS = 2.0


def descendants(pid: int) -> list[int]:
    """Process ids of all children and children's children, by `ps`.

    Process groups do not do: sshd gives each connection a session of its own.
    """
    table = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    children: dict[int, list[int]] = {}
    for line in table.splitlines():
        child, parent = map(int, line.split())
        children.setdefault(parent, []).append(child)
    found, queue = [], [pid]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def send(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def adopt_orphans() -> None:
    """Become the parent of grandchildren whose parent dies, where the system can (Linux).

    They can then be found and reaped, even on a machine whose first process does not reap.
    """
    if sys.platform == "linux":
        import ctypes

        set_child_subreaper = 36
        ctypes.CDLL(None).prctl(set_child_subreaper, 1, 0, 0, 0)


def main() -> int:
    folder, *command = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    adopt_orphans()
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    family: list[int] = []
    orphaned = False

    def end() -> None:
        nonlocal family
        family = descendants(server.pid)
        server.terminate()
        deadline = time.monotonic() + GRACE_SECONDS
        while server.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        server.kill()

    def watch() -> None:
        nonlocal orphaned
        # One byte is the order to stop; the end of the pipe is the end of the test process.
        orphaned = not os.read(0, 1)
        end()

    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=end, daemon=True).start())
    threading.Thread(target=watch, daemon=True).start()
    code = server.wait()
    send([*family, *descendants(os.getpid())], signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
    if orphaned:
        shutil.rmtree(folder, ignore_errors=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
