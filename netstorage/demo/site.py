"""The demo's Django project: its settings, its database and its web server."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.management import call_command
from django.core.management.utils import get_random_secret_key
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.core.wsgi import get_wsgi_application
from django.db import connections

HOST = "127.0.0.1"
PORT = 8000


def configure(
    folder: Path, *, sftp: Mapping[str, Any], webdav: Mapping[str, Any], quiet: bool
) -> None:
    """Set up Django.

    Args:
        folder: Where the site keeps its database.
        sftp: Options of the SFTP storage.
        webdav: Options of the WebDAV storage.
        quiet: Whether to log problems only, and no requests.
    """
    settings.configure(
        SECRET_KEY=get_random_secret_key(),
        ALLOWED_HOSTS=[HOST, "localhost"],
        ROOT_URLCONF="netstorage.demo.urls",
        INSTALLED_APPS=[
            "django.contrib.admin",
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.sessions",
            "django.contrib.messages",
            "django.contrib.staticfiles",
            "netstorage",
            "netstorage.demo",
        ],
        MIDDLEWARE=[
            "django.middleware.security.SecurityMiddleware",
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.common.CommonMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
            "django.middleware.clickjacking.XFrameOptionsMiddleware",
            "netstorage.demo.middleware.StorageErrors",
        ],
        # Cookies do not know ports: under its own name ours leaves another local site logged in.
        SESSION_COOKIE_NAME="netstorage_demo_session",
        CSRF_COOKIE_NAME="netstorage_demo_csrf",
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "OPTIONS": {
                    "context_processors": [
                        "django.template.context_processors.request",
                        "django.contrib.auth.context_processors.auth",
                        "django.contrib.messages.context_processors.messages",
                    ],
                },
            }
        ],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": folder / "db.sqlite3",
                "OPTIONS": {"init_command": "PRAGMA synchronous = OFF"},
            }
        },
        STORAGES={
            "default": {
                "BACKEND": "django.core.files.storage.FileSystemStorage",
                "OPTIONS": {"location": folder / "media"},
            },
            "staticfiles": {
                "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage",
            },
            "sftp": {
                "BACKEND": "netstorage.SFTPStorage",
                "OPTIONS": {
                    **sftp,
                    "base_url": "/files/sftp/",
                    "querystring_auth": True,
                },
            },
            "webdav": {
                "BACKEND": "netstorage.WebDAVStorage",
                "OPTIONS": {
                    **webdav,
                    "base_url": "/files/webdav/",
                    "querystring_auth": True,
                },
            },
        },
        FILE_UPLOAD_TEMP_DIR=str(folder),
        STATIC_URL="/static/",
        USE_TZ=True,
        TIME_ZONE="UTC",
        LOGGING={
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {"console": {"class": "logging.StreamHandler"}},
            "loggers": {
                "django": {"handlers": ["console"], "level": "WARNING"},
                "django.server": {
                    "handlers": ["console"],
                    "level": "WARNING" if quiet else "INFO",
                    "propagate": False,
                },
                "netstorage": {"handlers": ["console"], "level": "WARNING"},
            },
        },
    )
    django.setup()


def prepare() -> None:
    """Make the database and the user ``demo``."""
    from django.contrib.auth.models import User

    call_command("migrate", verbosity=0, interactive=False)
    User.objects.create_superuser("demo", password="demo")  # noqa: S106 - told to everyone
    connections.close_all()


@contextmanager
def serve(port: int | None) -> Iterator[str]:
    """Serve the site in a thread; give its URL.

    Args:
        port: Where to listen; 0: any free port; None: the usual one, or else any free one.
    """
    server = _bind(port)
    server.set_app(StaticFilesHandler(get_wsgi_application()))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _bind(port: int | None) -> ThreadedWSGIServer:
    if port is not None:
        return ThreadedWSGIServer((HOST, port), WSGIRequestHandler)
    try:
        return ThreadedWSGIServer((HOST, PORT), WSGIRequestHandler)
    except OSError:
        return ThreadedWSGIServer((HOST, 0), WSGIRequestHandler)
