"""The demo's tables."""

from __future__ import annotations

from typing import ClassVar

from django.db import migrations, models

import netstorage.demo.models


class Migration(migrations.Migration):
    """One table for each server."""

    initial = True

    dependencies: ClassVar[list[tuple[str, str]]] = []

    operations: ClassVar[list[migrations.CreateModel]] = [
        migrations.CreateModel(
            name=name,
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "file",
                    models.FileField(max_length=250, storage=storage, upload_to="%Y/%m"),
                ),
            ],
            options={"verbose_name": verbose_name},
        )
        for name, verbose_name, storage in (
            ("SFTPUpload", "SFTP upload", netstorage.demo.models.sftp_storage),
            ("WebDAVUpload", "WebDAV upload", netstorage.demo.models.webdav_storage),
        )
    ]
