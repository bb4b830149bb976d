"""Static files on a server: storages with Django's manifest, and a fast ``collectstatic``.

As an app, in front of ``django.contrib.staticfiles`` in INSTALLED_APPS, it takes the place of
Django's command ``collectstatic``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .sftp import ManifestSFTPStorage as ManifestSFTPStorage
    from .webdav import ManifestWebDAVStorage as ManifestWebDAVStorage

__all__ = ["ManifestSFTPStorage", "ManifestWebDAVStorage"]

# Imported on first use: one extra is enough, and Django imports an app before it is ready.
_STORAGES = {"ManifestSFTPStorage": ".sftp", "ManifestWebDAVStorage": ".webdav"}


def __getattr__(name: str) -> Any:
    if name in _STORAGES:
        return getattr(import_module(_STORAGES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
