"""The app whose command ``collectstatic`` takes the place of Django's."""

from django.apps import AppConfig


class StaticFilesConfig(AppConfig):
    """The app that goes in front of ``django.contrib.staticfiles`` in INSTALLED_APPS."""

    name = "netstorage.staticfiles"
    label = "netstorage_staticfiles"
    verbose_name = "netstorage's static files"
