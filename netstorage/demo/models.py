"""One model for each server: the storage belongs to the field, not to the row."""

from __future__ import annotations

from typing import Any

from django.core.files.storage import Storage, storages
from django.db import models
from django.db.models.signals import post_delete
from django.dispatch import receiver

# Migrations name these functions, and so hold neither an address nor a password.


def sftp_storage() -> Storage:
    """Return the storage of SFTPUpload."""
    return storages["sftp"]


def webdav_storage() -> Storage:
    """Return the storage of WebDAVUpload."""
    return storages["webdav"]


class SFTPUpload(models.Model):
    """A file on the SFTP server."""

    file = models.FileField(storage=sftp_storage, upload_to="%Y/%m", max_length=250)

    class Meta:  # noqa: D106 - the model's docstring says it
        verbose_name = "SFTP upload"

    def __str__(self) -> str:
        """Return the name in the storage."""
        return str(self.file)


class WebDAVUpload(models.Model):
    """A file on the WebDAV server."""

    file = models.FileField(storage=webdav_storage, upload_to="%Y/%m", max_length=250)

    class Meta:  # noqa: D106 - the model's docstring says it
        verbose_name = "WebDAV upload"

    def __str__(self) -> str:
        """Return the name in the storage."""
        return str(self.file)


@receiver(post_delete, sender=SFTPUpload)
@receiver(post_delete, sender=WebDAVUpload)
def delete_file(instance: SFTPUpload | WebDAVUpload, **kwargs: Any) -> None:
    """Delete the file with its row; a server that is away keeps the row."""
    instance.file.delete(save=False)
