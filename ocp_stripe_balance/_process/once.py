"""
What is worked out once for each object, without a lock.

`functools.cached_property` has one in Python 3.11, for all objects of a class together: a child that is forked while
another thread holds it would wait for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")


class Once(Generic[_T]):
    """
    A property whose first value is kept with its object.
    """

    def __init__(self, work: Callable[[Any], _T]) -> None:
        """
        Take *work* as what gives the value.
        """
        self._work = work
        self.__doc__ = work.__doc__

    def __get__(self, whose: object, _: type) -> _T:
        """
        The value, which from now on Python finds with the object itself.
        """
        value = whose.__dict__[self._work.__name__] = self._work(whose)
        return value
