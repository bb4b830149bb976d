"""Registers the system checks."""

from django.apps import AppConfig
from django.core.checks import register


class NetStorageConfig(AppConfig):
    """The app that goes into INSTALLED_APPS for the system checks."""

    name = "netstorage"
    verbose_name = "netstorage"

    def ready(self) -> None:
        """Register the checks."""
        from .checks import check_fields, check_storages

        register(check_storages)
        register(check_fields)
