"""A name, and the thing it names. One registry per kind of thing; a second registration is an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

from gradlens.errors import NotFoundError

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Names to things of one kind, in the order they were registered.

    Args:
        kind: what it holds, in the singular, as error messages should call it (``"CAM method"``).

    >>> shades = Registry("shade")
    >>> shades.register("dark")("#222222")
    '#222222'
    >>> shades["dark"], list(shades)
    ('#222222', ['dark'])
    >>> shades["drak"]
    Traceback (most recent call last):
    gradlens.errors.NotFoundError: no shade named 'drak'; did you mean 'dark'?
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._things: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that files a thing under ``name``.

        Raises:
            ValueError: the name is taken.
        """

        def file(thing: T) -> T:
            if name in self._things:
                raise ValueError(f"{self.kind} {name!r} is registered already, as {self._things[name]!r}")
            self._things[name] = thing
            return thing

        return file

    def __getitem__(self, name: str) -> T:
        try:
            return self._things[name]
        except KeyError:
            raise NotFoundError(self.kind, name, self._things) from None

    def __contains__(self, name: object) -> bool:
        return name in self._things

    def __iter__(self) -> Iterator[str]:
        return iter(self._things)

    def __len__(self) -> int:
        return len(self._things)
