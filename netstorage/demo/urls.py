"""The demo's addresses."""

from django.contrib import admin
from django.urls import include, path

from . import views

urlpatterns = [
    path("", views.index, name="index"),
    path("delete/", views.delete, name="delete"),
    path("files/sftp/", include("netstorage.urls"), {"storage": "sftp"}),
    path("files/webdav/", include("netstorage.urls"), {"storage": "webdav"}),
    path("admin/", admin.site.urls),
]
