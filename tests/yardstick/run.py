"""Runs Django's runtests.py, from the folder that holds it, with FileSystemStorage replaced.

The server's options come as JSON in YARDSTICK_OPTIONS; its files are this machine's, so that what
Django's tests look for on the disk is there.
"""

import json
import os
import sys
from pathlib import Path

from django.conf import settings
from django.core.files.storage import filesystem
from django.utils._os import safe_join

# Ours is called "tests", too: Django must find its own.
import netstorage.sftp

OPTIONS = json.loads(os.environ["YARDSTICK_OPTIONS"])


class FileSystemStorage(netstorage.sftp.SFTPStorage):
    """SFTPStorage with FileSystemStorage's arguments."""

    # Django 5.2's tests change these in subclasses.
    OS_OPEN_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL

    def __init__(
        self,
        location=None,
        base_url=None,
        file_permissions_mode=None,
        directory_permissions_mode=None,
        allow_overwrite=False,
    ):
        self._location = location
        super().__init__(
            **OPTIONS,
            base_url=base_url,
            file_permissions_mode=file_permissions_mode,
            directory_permissions_mode=directory_permissions_mode,
            allow_overwrite=allow_overwrite,
        )

    @property
    def base_location(self):
        return settings.MEDIA_ROOT if self._location is None else self._location

    @property
    def location(self):
        return os.path.abspath(self.base_location)

    def path(self, name):
        return safe_join(self.location, name)


if __name__ == "__main__":
    filesystem.FileSystemStorage = FileSystemStorage
    import django.core.files.storage

    django.core.files.storage.FileSystemStorage = FileSystemStorage
    os.environ["RUNNING_DJANGOS_TEST_SUITE"] = "true"
    script = Path("runtests.py").resolve()
    sys.path.insert(0, str(script.parent))
    sys.argv[0] = str(script)
    code = compile(script.read_text("utf-8"), str(script), "exec")
    exec(code, {"__name__": "__main__", "__file__": str(script)})
