"""Where browsers find a storage's files: to be included at the path of its ``base_url``.

    path("media/", include("netstorage.urls"))
    path("archive/", include("netstorage.urls"), {"storage": "archive"})

The dictionary holds arguments of ``netstorage.downloads.views.download()``.
"""

from django.urls import re_path

from .downloads.views import download

# Unlike the converter "path", this takes names with a line break, too.
urlpatterns = [re_path(r"(?P<name>(?s:.+))\Z", download)]
