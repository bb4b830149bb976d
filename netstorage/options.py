"""Where a storage's options come from, and what they mean together."""

from __future__ import annotations

import difflib
import posixpath
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cached_property
from pathlib import PurePath
from threading import TIMEOUT_MAX
from typing import Any, ClassVar, TypedDict

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.files.storage import Storage
from django.core.signals import setting_changed
from django.urls import get_script_prefix

from .hidden import hidden
from .limits import PoolLimits
from .pool import ConnectionPool, get_pool
from .session import Endpoint


class PoolOptions(TypedDict, total=False):
    """The option ``pool``; see PoolLimits for the meanings and defaults."""

    max_size: int
    timeout: float
    max_idle: float
    max_lifetime: float


class CommonOptions(TypedDict, total=False):
    """The options that every network storage takes.

    Attributes:
        location: Root of the storage on the server.
        base_url: What ``url()`` puts before names; default: MEDIA_URL.
        querystring_auth: Whether ``url()`` signs its links, for netstorage's view at ``base_url``.
        querystring_expire: Seconds for which such a link is good.
        querystring_bind: Returns for whom alone: called by ``url()``, and when a link is followed.
        allow_overwrite: Whether ``save()`` replaces a file of the same name.
        max_memory_size: Bytes of a file kept in memory before a temporary file is used; default:
            FILE_UPLOAD_MAX_MEMORY_SIZE.
        timeout: Seconds of silence after which a server is given up.
        connect_timeout: Seconds that opening a session may take.
        pool: Limits of the connection pool.
        read_only: Whether everything that would change the server is refused.
    """

    location: str | PurePath
    base_url: str | None
    querystring_auth: bool
    querystring_expire: int
    querystring_bind: Callable[[], str] | None
    allow_overwrite: bool
    max_memory_size: int | None
    timeout: float
    connect_timeout: float
    pool: PoolOptions
    read_only: bool


COMMON_DEFAULTS: CommonOptions = {
    "location": "",
    "base_url": None,
    "querystring_auth": False,
    "querystring_expire": 3600,
    "querystring_bind": None,
    "allow_overwrite": False,
    "max_memory_size": None,
    "timeout": 30.0,
    "connect_timeout": 10.0,
    "pool": {},
    "read_only": False,
}

_CACHED = ("options", "pool", "location", "base_url")

# What an option may be, and how a message says it. A string like "false" is no bool.
Kind = tuple[tuple[Any, ...], str]
NoneType = type(None)
FLAG: Kind = ((bool,), "True or False")
NUMBER: Kind = ((int, NoneType), "a whole number or None")
TEXT: Kind = ((str, NoneType), "a string or None")
TEXTS: Kind = ((str, list, tuple, NoneType), "a string, a list of strings or None")
PATH: Kind = ((str, PurePath, NoneType), "a path or None")
SECRET: Kind = ((str, Callable, NoneType), "a string, a callable that returns one, or None")
COMMON_KINDS: Mapping[str, Kind] = {
    "location": PATH,
    "base_url": TEXT,
    "querystring_auth": FLAG,
    "querystring_bind": ((Callable, NoneType), "a callable that returns a string, or None"),
    "allow_overwrite": FLAG,
    "max_memory_size": NUMBER,
    "read_only": FLAG,
}


class ConfiguredStorage(Storage):
    """A storage that takes options from its arguments, a setting, and defaults."""

    settings_name: ClassVar[str]
    """The setting that holds options for every storage of the class."""
    defaults: ClassVar[Mapping[str, Any]]
    """Every option of the class, with its default."""
    kinds: ClassVar[Mapping[str, Kind]] = COMMON_KINDS
    """Types that an option may have, and their description."""
    required: ClassVar[str]
    """The option that has no default."""
    secrets: ClassVar[frozenset[str]]
    """Options that never enter a migration, a repr, a log or a message."""

    def __init__(self, **options: Any) -> None:
        options = self._given = self._hidden(options)
        self._refuse_unknown(options, f"{type(self).__name__}()")
        setting_changed.connect(self._forget_settings)

    @classmethod
    def _hidden(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        return {
            # What is no option may be the misspelt name of a secret.
            name: hidden(value) if name in cls.secrets or name not in cls.defaults else value
            for name, value in options.items()
        }

    @classmethod
    def _refuse_unknown(cls, options: Mapping[str, Any], where: str) -> None:
        for name in options:
            if name not in cls.defaults:
                near = difflib.get_close_matches(str(name), cls.defaults, 1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise ImproperlyConfigured(f"{where} has no option {name!r}.{hint}")

    def _forget_settings(self, *, setting: str, **kwargs: object) -> None:
        if setting == self.settings_name:
            for cached in _CACHED:
                self.__dict__.pop(cached, None)
        elif setting == "MEDIA_URL":
            self.__dict__.pop("base_url", None)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is made at the first use: a copy finds the same pool by itself."""
        return {name: value for name, value in vars(self).items() if name not in _CACHED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make a copy follow the settings, too."""
        vars(self).update(state)
        setting_changed.connect(self._forget_settings)

    @cached_property
    def options(self) -> Mapping[str, Any]:
        """Every option with its value: from the arguments, the setting, or the default."""
        from_settings = getattr(settings, self.settings_name, {})
        if not isinstance(from_settings, Mapping):
            raise ImproperlyConfigured(f"{self.settings_name} must be a dictionary of options.")
        from_settings = self._hidden(from_settings)
        self._refuse_unknown(from_settings, self.settings_name)
        options = {**self.defaults, **from_settings, **self._given}
        if not options[self.required]:
            raise ImproperlyConfigured(
                f"{type(self).__name__} needs the option {self.required!r}: put it into OPTIONS of "
                f"the storage's entry in STORAGES, into {self.settings_name}, or pass it to "
                f"{type(self).__name__}()."
            )
        for name, (kinds, meaning) in self.kinds.items():
            value = options[name]
            if not isinstance(value, kinds):
                kind = "str" if isinstance(value, str) else type(value).__name__
                given = kind if name in self.secrets else repr(value)
                raise ImproperlyConfigured(f"the option {name!r} must be {meaning}, not {given}.")
        for name in ("timeout", "connect_timeout", "querystring_expire"):
            value = options[name]
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not (is_number and 0 < value <= TIMEOUT_MAX):
                raise ImproperlyConfigured(
                    f"the option {name!r} must be a positive number of seconds, not {value!r}."
                )
        return options

    @cached_property
    def location(self) -> str:
        """The storage's root on the server."""
        location = str(self.options["location"] or "")
        return posixpath.normpath(location) if location else ""

    @cached_property
    def base_url(self) -> str | None:
        """What ``url()`` puts before names, or None if neither option nor setting tells."""
        base_url: str | None = self.options["base_url"]
        if base_url is None:
            # Without a value of its own, MEDIA_URL is the script prefix alone.
            media_url = settings.MEDIA_URL
            base_url = None if media_url == get_script_prefix() else media_url
        if base_url and not base_url.endswith("/"):
            base_url += "/"
        return base_url or None

    @property
    def max_memory_size(self) -> int:
        """Bytes of a file that are kept in memory before a temporary file is used."""
        value: int | None = self.options["max_memory_size"]
        return settings.FILE_UPLOAD_MAX_MEMORY_SIZE if value is None else value

    @property
    def file_permissions_mode(self) -> int | None:
        """Permission bits of new files, where the protocol knows such."""
        return None

    @property
    def directory_permissions_mode(self) -> int | None:
        """Permission bits of new directories, where the protocol knows such."""
        return None

    def _endpoint(self) -> Endpoint:
        """Return where and as whom ``options`` say to connect."""
        raise NotImplementedError

    def _limits(self) -> PoolLimits:
        """Return the pool's limits that the option ``pool`` sets."""
        options = self.options["pool"]
        if not isinstance(options, Mapping):
            raise ImproperlyConfigured("the option 'pool' must be a dictionary.")
        known = [field.name for field in fields(PoolLimits)]
        for name in options:
            if name not in known:
                raise ImproperlyConfigured(
                    f"the option 'pool' has no entry {name!r}; it takes {', '.join(known)}."
                )
        try:
            return PoolLimits(**options)
        except (TypeError, ValueError) as error:
            raise ImproperlyConfigured(f"the option 'pool': {error}.") from error

    @cached_property
    def pool(self) -> ConnectionPool:
        """The process's pool of sessions, shared by all storages that connect alike."""
        endpoint, limits = self._endpoint(), self._limits()
        try:
            return get_pool(endpoint, limits)
        except ValueError as error:
            raise ImproperlyConfigured(f"{error}. Give both the same option 'pool'.") from error

    def deconstruct(self) -> tuple[str, tuple[()], dict[str, Any]]:
        """Describe the storage for a migration, without its secrets."""
        cls = type(self)
        public = {name: value for name, value in self._given.items() if name not in self.secrets}
        return f"{cls.__module__}.{cls.__qualname__}", (), public

    def __repr__(self) -> str:
        """Show the class and the arguments that are no secrets."""
        shown = ", ".join(
            f"{name}={'…' if name in self.secrets else repr(value)}"
            for name, value in self._given.items()
        )
        return f"{type(self).__name__}({shown})"
