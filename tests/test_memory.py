"""Files of any size pass in constant memory, both ways."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SIZE = 256 * 2**20

# A fresh process: its peak is its own. The peak before the transfer is what Python, Django and the
# first, small transfer need.
SCRIPT = """
import json, resource, sys, tempfile, time
import django
from django.conf import settings
settings.configure(FILE_UPLOAD_MAX_MEMORY_SIZE=2**20)
django.setup()
from django.core.files import File
from django.core.files.base import ContentFile
import netstorage

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

storage = getattr(netstorage, sys.argv[1])(**json.loads(sys.argv[2]))
storage.open(storage.save("small", ContentFile(b"x" * 2**20))).read()
with tempfile.TemporaryFile() as local:
    local.truncate(int(sys.argv[3]))
    before = peak()
    name = storage.save("large", File(local))
    saved = peak() - before
count = lent = 0
with storage.open(name) as file:
    for chunk in file.chunks():
        count += len(chunk)
with storage.open(name) as file:
    # The server could send more, but the consumer takes its time.
    for chunk in iter(lambda: file.read(4096), b""):
        count += len(chunk)
        if count % 2**23 == 0:
            time.sleep(0.01)
            lent += storage.pool.stats().in_use
read = peak() - before
with storage.open(name) as file:
    file.read(100)
    count += 100 + len(file.read())
storage.delete(name)
print(json.dumps([count, lent, saved, read, peak() - before]))
"""


@pytest.mark.parametrize(
    ("fixture", "storage"), [("sftp_server", "SFTPStorage"), ("webdav_server", "WebDAVStorage")]
)
def test_a_large_file_passes_in_little_memory(
    fixture: str, storage: str, request: pytest.FixtureRequest
) -> None:
    """Saving and reading 256 MiB takes no more than 32 MiB beyond what a small file takes.

    At the consumer's pace, without holding a session. Whoever asks for all at once gets one copy.
    """
    server = request.getfixturevalue(fixture)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, storage, json.dumps(server.options), str(SIZE)],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    count, lent, saved, read, whole = json.loads(done.stdout)
    assert count == 3 * SIZE
    assert lent == 0
    assert saved < 32 * 2**20
    assert read < 32 * 2**20
    assert whole < SIZE + 32 * 2**20
