"""The demo as a Django app."""

from django.apps import AppConfig


class DemoConfig(AppConfig):
    """Uploads on both servers."""

    name = "netstorage.demo"
    label = "netstorage_demo"
    verbose_name = "netstorage demo"
    default_auto_field = "django.db.models.BigAutoField"
