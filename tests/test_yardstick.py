"""FileSystemStorage is the yardstick: Django's own storage tests pass over a real sshd."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import django
import pytest

from tests.servers import SERVERS

LABELS = ("file_storage", "file_uploads", "files")

# What needs a local disk, with the reason.
LOCAL = {
    r"test_file_get_created_time": "SFTP version 3 tells no time of creation",
    r"test_file_get_(accessed|modified)_time": "wants a time within 2 s; SFTP tells whole seconds",
    r"test_(makedirs|remove)_race_handling": "patches os.makedirs and os.remove",
    r"test_file_upload(_directory)?_default_permissions": "the umask is the server's",
    r"FileSystemStorageTests\.test_deconstruction": "another class, with other arguments",
    r"test_readonly_root": "root may write everywhere",
    r"OverwritingStorageOSOpenFlags": "sets the flags of os.open(), deprecated in Django 5.1",
}


@pytest.fixture(scope="module")
def django_tests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tests folder of this Django's source, which wheels leave out."""
    folder = tmp_path_factory.mktemp("django")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "django"]
    done = subprocess.run(
        [*pip, "--dest", str(folder), f"django=={django.__version__}"],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    archives = list(folder.glob("*.tar.gz"))
    if not archives:
        pytest.skip(f"Django's source is not to be had: {done.stderr[-300:]}")
    with tarfile.open(archives[0]) as archive:
        archive.extractall(folder, filter="data")
    return next(folder.glob("*/tests"))


def test_djangos_own_storage_tests_pass_over_sshd(django_tests: Path) -> None:
    """All but what needs a local disk; the source's version is that of the Django under test."""
    reason = SERVERS["sshd"].unavailable()
    if reason:
        pytest.skip(f"sshd: {reason}")
    server = SERVERS["sshd"]().start()
    try:
        options = {k: str(v) if isinstance(v, Path) else v for k, v in server.options.items()}
        del options["location"]
        paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        done = subprocess.run(
            [sys.executable, "-m", "tests.yardstick.run", "--parallel=1", *LABELS],
            cwd=django_tests,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(paths),
                "YARDSTICK_OPTIONS": json.dumps(options),
            },
            capture_output=True,
            text=True,
            timeout=170,
            check=False,
        )
    finally:
        server.stop()
    ran = re.search(r"^Ran (\d+) tests", done.stderr, re.MULTILINE)
    assert ran, done.stderr[-3000:]
    assert int(ran[1]) > 100
    failed = re.findall(r"^(?:FAIL|ERROR): \S+ \((\S+)\)", done.stderr, re.MULTILINE)
    unexpected = [name for name in failed if not any(re.search(local, name) for local in LOCAL)]
    assert not unexpected, done.stderr[-6000:]
