"""Under gevent, as gunicorn's gevent workers run: greenlets in place of threads."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys

import pytest

from netstorage.testing import EmbeddedServer, SFTPServer, WebDAVServer

pytest.importorskip("gevent")

SCRIPT = """
from gevent import monkey
monkey.patch_all()

import json, sys, threading
import gevent
from django.conf import settings
settings.configure()
from django.core.files.base import ContentFile
import netstorage

storage = getattr(netstorage, sys.argv[1])(**json.loads(sys.argv[2]), pool={"max_size": 4})
most = 0

def work(number):
    global most
    content = f"greenlet {number} ".encode() * (number * 500)
    name = storage.save(f"{number % 10}/{number}.txt", ContentFile(content))
    most = max(most, storage.pool.stats().in_use)
    with storage.open(name) as file:
        head = file.read(10)
        gevent.sleep(0)
        assert head + file.read() == content, name
    assert storage.size(name) == len(content)
    return name

beats = 0

def beat():
    # Nothing may block the whole process.
    global beats
    while True:
        beats += 1
        gevent.sleep(0.001)

heart = gevent.spawn(beat)
greenlets = [gevent.spawn(work, number) for number in range(50)]
gevent.joinall(greenlets, timeout=40, raise_error=True)
assert [each.value for each in greenlets] == [f"{n % 10}/{n}.txt" for n in range(50)]
heart.kill()

# Who is given up while it waits takes nothing along.
with storage.pool.connection(exclusive=True):
    lost = []
    for _ in range(3):
        context = storage.pool.connection(exclusive=True)
        context.__enter__()
        lost.append(context)
    try:
        with gevent.Timeout(0.05):
            storage.size("1/1.txt")
    except gevent.Timeout:
        print("gave up")
    waiter = gevent.spawn(storage.size, "1/1.txt")
    gevent.sleep(0.01)
    waiter.kill()
    assert storage.pool.stats().waiting == 0
    for context in lost:
        context.__exit__(None, None, None)

stats = storage.pool.stats()
assert stats.size <= 4 and stats.connects <= 4, stats
assert (stats.in_use, stats.waiting, stats.connecting, stats.timeouts) == (0, 0, 0, 0), stats
assert stats.waits > 0, "no greenlet ever waited"
assert most > 1, "no two greenlets worked side by side"
assert beats > 10, beats
print("done")
"""


@pytest.mark.parametrize("server_class", [SFTPServer, WebDAVServer])
def test_fifty_greenlets_share_four_sessions(server_class: type[EmbeddedServer]):
    with server_class() as server:
        location = secrets.token_hex(4)
        (server.root / location).mkdir()
        storage = "SFTPStorage" if server_class is SFTPServer else "WebDAVStorage"
        options = json.dumps({**server.options, "location": location})
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, storage, options],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stdout) == (0, "gave up\ndone\n"), done.stderr
        for number in range(50):
            file = server.root / location / str(number % 10) / f"{number}.txt"
            assert file.read_bytes() == f"greenlet {number} ".encode() * (number * 500)
