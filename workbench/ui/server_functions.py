"""Functions that the script of a component calls on the server. Anybody who reaches the app can call them too."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from fastapi import HTTPException

Answer = TypeVar("Answer")


def takes(*kinds: type) -> Callable[[Callable[..., Awaitable[Answer]]], Callable[[Any], Awaitable[Answer]]]:
    """Make a function with arguments of these types one that gradio calls with a list of them.

    A list of another length, or with a value of another type, is refused with status 422 and one sentence.
    """

    def decorate(function: Callable[..., Awaitable[Answer]]) -> Callable[[Any], Awaitable[Answer]]:
        async def call(data: Any) -> Answer:
            # The exact type: JSON's true is no number.
            if not isinstance(data, list) or [type(value) for value in data] != [*kinds]:
                names = ", ".join(kind.__name__ for kind in kinds)
                raise HTTPException(422, f"{function.__name__} takes a list of {len(kinds)} values: {names}.")
            return await function(*data)

        call.__name__ = function.__name__  # and not its signature, which gradio would look at
        return call

    return decorate
