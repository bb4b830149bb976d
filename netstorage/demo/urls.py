"""The demo's addresses."""

from django.contrib import admin
from django.urls import path

from . import views

urlpatterns = [
    path("", views.index, name="index"),
    path("delete/", views.delete, name="delete"),
    path("files/<str:alias>/<path:name>", views.download, name="download"),
    path("admin/", admin.site.urls),
]
