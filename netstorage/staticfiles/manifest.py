"""Django's manifest of static files, read when it is first needed."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.contrib.staticfiles.storage import ManifestFilesMixin

if TYPE_CHECKING:
    from ..storage import NetworkStorage as _Storage
else:
    _Storage = object


class ManifestMixin(ManifestFilesMixin, _Storage):  # type: ignore[misc] # the stubs know two url()
    """What ManifestStaticFilesStorage does, for a storage on a server.

    Making it asks nothing of the server, so that a site starts, and its checks run, without it.
    ``base_url`` falls back to STATIC_URL.
    """

    _is_made = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._is_made = True
        del self.hashed_files, self.manifest_hash

    def read_manifest(self) -> str | None:  # type: ignore[override] # None in fact
        """Return the manifest's text, or None if there is none; nor is any while this is made."""
        return super().read_manifest() if self._is_made else None

    @cached_property
    def hashed_files(self) -> Any:  # type: ignore[override] # an attribute there
        """The names on the server by the names in templates."""
        hashed_files, self.manifest_hash = self.load_manifest()
        return hashed_files

    @cached_property
    def manifest_hash(self) -> str:  # type: ignore[override] # an attribute there
        """A hash of the names."""
        self.hashed_files, manifest_hash = self.load_manifest()
        return manifest_hash

    @property
    def base_url(self) -> str | None:
        """What ``url()`` puts before names: the option, or STATIC_URL."""
        base_url: str | None = self.options["base_url"] or settings.STATIC_URL
        return base_url if not base_url or base_url.endswith("/") else f"{base_url}/"

    @property
    def signs_urls(self) -> bool:
        """False: links in style sheets must not expire."""
        return False
