"""Storages for static files with hashed names: Django's mixin over netstorage and over its peer."""

from __future__ import annotations

from django.contrib.staticfiles.storage import ManifestFilesMixin

import netstorage

try:
    from storages.backends.sftpstorage import SFTPStorage
except ImportError:
    SFTPStorage = object


class NetstorageStatic(ManifestFilesMixin, netstorage.SFTPStorage):
    """netstorage, with hashed names."""


class DjangoStoragesStatic(ManifestFilesMixin, SFTPStorage):
    """django-storages, with hashed names."""
