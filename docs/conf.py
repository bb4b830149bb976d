"""Sphinx's settings: ``tox run -e docs`` builds with warnings as errors."""

from importlib.metadata import version as installed

from django.conf import settings

settings.configure()  # for autodoc, which imports the storages

project = "django-netstorage"
author = "The netstorage contributors"
copyright = f"2026, {author}"
version = release = installed("django-netstorage")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
nitpicky = True
# Other projects' names are not ours to resolve, and the build needs no network.
nitpick_ignore_regex = [(r"py:.*", r"(?!netstorage).*")]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"django-netstorage {release}"
