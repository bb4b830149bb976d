"""ManifestSFTPStorage."""

from ..sftp import SFTPStorage
from .manifest import ManifestMixin


class ManifestSFTPStorage(ManifestMixin, SFTPStorage):  # type: ignore[misc] # see ManifestMixin
    """Keeps static files, under names with a hash of their content, on an SFTP server."""
