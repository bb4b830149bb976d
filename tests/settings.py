"""The least that Django needs for the suite."""

SECRET_KEY = "tests"
USE_TZ = True
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "netstorage",
    "tests",
    "tests.console.gallery",
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
