"""ManifestWebDAVStorage."""

from ..webdav import WebDAVStorage
from .manifest import ManifestMixin


class ManifestWebDAVStorage(ManifestMixin, WebDAVStorage):  # type: ignore[misc] # see ManifestMixin
    """Keeps static files, under names with a hash of their content, on a WebDAV server."""
