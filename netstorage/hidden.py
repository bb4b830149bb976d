"""Strings that do not show what they hold: error pages print every variable of every frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

E = TypeVar("E", bound=BaseException)


class Hidden(str):
    """A secret; its repr is none."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Show that there is something."""
        return "'…'"


def hidden(value: Any) -> Any:
    """Hide a secret option: a string, or those in a sequence or a mapping."""
    if isinstance(value, str):
        return Hidden(value)
    if isinstance(value, Mapping):
        return {hidden(name): hidden(each) for name, each in value.items()}
    if type(value) in {list, tuple}:
        return type(value)(map(hidden, value))
    return value


def without_frames(error: E) -> E:
    """Drop the frames of an error and its causes: those of HTTP clients hold all headers."""
    each: BaseException | None = error
    while each is not None:
        each.__traceback__ = None
        each = each.__cause__
    return error


def reveal(secret: str | Callable[[], str] | None) -> str | None:
    """Return a secret, asking its callable if it is one; it shows no more than before."""
    revealed: str | None = hidden(secret() if callable(secret) else secret)
    return revealed
