"""An app whose rows have files: every kind of model that may."""

from __future__ import annotations

from django.conf import settings
from django.core.files.storage import Storage, default_storage, storages
from django.db import models


def nas() -> Storage:
    """The alias that the processes of the tests have; there are tests without it."""
    return storages["nas"] if "nas" in settings.STORAGES else default_storage


class Visible(models.Manager["Photo"]):
    """Hides what is marked as deleted."""

    def get_queryset(self) -> models.QuerySet[Photo]:
        return super().get_queryset().filter(is_deleted=False)


class Photo(models.Model):
    """Its managers, also the one that Django itself uses, hide rows."""

    image = models.ImageField(storage=nas, null=True, blank=True, max_length=250)
    raw = models.FileField(storage=nas, blank=True, max_length=250)
    is_deleted = models.BooleanField(default=False)

    objects = Visible()

    class Meta:
        base_manager_name = "objects"


class Panorama(Photo):
    """Has a table of its own for what it adds."""

    wide = models.FileField(storage=nas)


class Favourite(Photo):
    class Meta:
        proxy = True


class Attached(models.Model):
    file = models.FileField(storage=nas)

    class Meta:
        abstract = True


class Letter(Attached):
    photos = models.ManyToManyField(Photo, through="Enclosure")


class Enclosure(Attached):
    """Between two others."""

    letter = models.ForeignKey(Letter, models.CASCADE)
    photo = models.ForeignKey(Photo, models.CASCADE)


class Elsewhere(models.Model):
    """Its storage is the test's choice."""

    file = models.FileField(storage=nas, max_length=250)
