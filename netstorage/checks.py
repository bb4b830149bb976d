"""System checks: what is wrong with the configuration, found out without touching the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from inspect import unwrap
from ipaddress import ip_address
from typing import Any
from urllib.parse import unquote, urlsplit

from django.apps import AppConfig, apps
from django.conf import STATICFILES_STORAGE_ALIAS, settings
from django.core.checks import CheckMessage, Error, Warning
from django.core.exceptions import ImproperlyConfigured
from django.core.files.storage import default_storage, storages
from django.db.models import FileField
from django.urls import Resolver404, get_script_prefix, resolve
from django.utils.module_loading import import_string

from .downloads.views import download
from .limits import PoolLimits
from .session import Endpoint
from .storage import NetworkStorage


def check_storages(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Check every network storage of STORAGES and of the models' fields."""
    messages: list[CheckMessage] = []
    limits: dict[Endpoint, tuple[str, PoolLimits]] = {}
    for where, parameters in settings.STORAGES.items():
        try:
            if not _is_network_storage(parameters.get("BACKEND")):
                continue
            storage = storages.create_storage(parameters)
            assert isinstance(storage, NetworkStorage)  # noqa: S101 - as seen; for the type checker
        except ImproperlyConfigured as error:
            messages.append(_unusable(f"STORAGES[{where!r}]", error, "E001"))
            continue
        messages += _check_storage(f"STORAGES[{where!r}]", storage, limits)
    for field, storage in _field_storages():
        messages += _check_storage(str(field), storage, limits)
    static = settings.STORAGES.get(STATICFILES_STORAGE_ALIAS, {})
    if _is_network_storage(static.get("BACKEND")) and not _has_fast_collectstatic():
        messages.append(
            Warning(
                "collectstatic will ask the server several questions for each file, one after the "
                "other.",
                hint="Put 'netstorage.staticfiles' into INSTALLED_APPS, in front of "
                "'django.contrib.staticfiles'.",
                id="netstorage.W007",
            )
        )
    return messages


def check_fields(
    app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Find fields whose storage was given a secret, which their migration will not hold."""
    messages: list[CheckMessage] = []
    for field, storage in _field_storages():
        given = sorted(storage.secrets & storage._given.keys())
        if given and not hasattr(field, "_storage_callable"):
            messages.append(
                Warning(
                    f"The storage of {field} was given {', '.join(map(repr, given))}, which its "
                    "migration leaves out.",
                    hint="Make the storage an entry of STORAGES, and give the field a function "
                    "that returns it: FileField(storage=get_storage). Or put the secret into "
                    f"{storage.settings_name}.",
                    obj=field,
                    id="netstorage.W005",
                )
            )
    return messages


def _is_network_storage(backend: str | None) -> bool:
    try:
        return issubclass(import_string(backend or ""), NetworkStorage)
    except (ImportError, TypeError):
        # Django tells this better when the storage is used.
        return False


def _has_fast_collectstatic() -> bool:
    names = [config.name for config in apps.get_app_configs()]
    theirs = "django.contrib.staticfiles"
    return theirs not in names or "netstorage.staticfiles" in names[: names.index(theirs)]


def _field_storages() -> Iterator[tuple[FileField, NetworkStorage]]:
    for model in apps.get_models(include_auto_created=True):
        for field in model._meta.get_fields():
            # An alias of STORAGES is checked there.
            if not isinstance(field, FileField) or field.storage is default_storage:
                continue
            if isinstance(field.storage, NetworkStorage):
                yield field, field.storage


def _check_storage(
    where: str, storage: NetworkStorage, limits: dict[Endpoint, tuple[str, PoolLimits]]
) -> Iterator[CheckMessage]:
    try:
        options = storage.options
        endpoint, wanted = storage._endpoint(), storage._limits()
        storage.location  # noqa: B018 - may be refused, too
    except ImproperlyConfigured as error:
        yield _unusable(where, error, "E002")
        return
    if "host_key" in options and not (options["host_key"] or options["known_hosts"]):
        yield Error(
            f"{where} has no source of host keys, so no server will be trusted.",
            hint="Set the option 'known_hosts' to the path of a known_hosts file, or 'host_key' to "
            "the server's public key (ssh-keyscan shows it; compare it on the server).",
            id="netstorage.E003",
        )
    if "url" in options and _exposes_credentials(options):
        yield Warning(
            f"{where} sends credentials over plain http to another host.",
            hint="Use an https URL in the option 'url'.",
            id="netstorage.W004",
        )
    first, theirs = limits.setdefault(endpoint, (where, wanted))
    if theirs != wanted:
        yield Error(
            f"{where} and {first} share {endpoint} and so its pool, but differ in the option "
            "'pool'.",
            hint="Give both the same limits.",
            id="netstorage.E006",
        )
    if storage.base_url and getattr(settings, "ROOT_URLCONF", None):
        yield from _check_links(where, storage)


def _check_links(where: str, storage: NetworkStorage) -> Iterator[CheckMessage]:
    """Follow a link to see whether it leads to netstorage's view of the storage."""
    path = unquote(urlsplit(storage._join_url("name")).path)
    if not path.startswith("/"):
        return
    found = None
    try:
        match = resolve(path.removeprefix(get_script_prefix().rstrip("/")))
    except Resolver404:
        found = "no view"
    else:
        served = match.kwargs.get("storage", "default")
        # A field's storage has no alias, and a decorator may give arguments of its own.
        is_certain = match.func is download and isinstance(served, str) and "[" in where
        if unwrap(match.func) is not unwrap(download):
            found = f"another view, at {match.route!r}"
        elif is_certain and f"STORAGES[{served!r}]" != where:
            found = f"the files of STORAGES[{served!r}]"
        elif is_certain and not (storage.signs_urls or match.kwargs.get("permission")):
            yield Error(
                f"{where} has neither links that are signed nor a view that asks for permission, "
                "so netstorage's view refuses to work.",
                hint="Set the storage's option 'querystring_auth', or give the view a "
                "'permission'.",
                id="netstorage.E009",
            )
    if found and storage.signs_urls:
        yield Warning(
            f"{where} signs its links, but they lead to {found}.",
            hint=f"Include netstorage.urls at {storage.base_url}, with the storage's alias. If a "
            "view of yours calls verify_url(), silence this.",
            id="netstorage.W008",
        )


def _exposes_credentials(options: Any) -> bool:
    url = urlsplit(options["url"])
    host = url.hostname or ""
    try:
        stays_here = ip_address(host).is_loopback
    except ValueError:
        stays_here = host == "localhost"
    has_secret = options["username"] or options["token"] or options["headers"]
    return url.scheme == "http" and bool(has_secret) and not stays_here


def _unusable(where: str, error: ImproperlyConfigured, number: str) -> Error:
    return Error(
        f"{where} cannot be used: {error}",
        hint="The settings reference lists every option of the storage.",
        id=f"netstorage.{number}",
    )
