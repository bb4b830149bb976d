"""The two servers of the demo."""

from django.db.models import TextChoices


class Server(TextChoices):
    """The servers, by their aliases in ``STORAGES``."""

    SFTP = "sftp", "SFTP"
    WEBDAV = "webdav", "WebDAV"
