"""Functions that the script of a component calls on the server. Anyone who can reach the app can call them too."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from fastapi import HTTPException

Answer = TypeVar("Answer")


def takes(*kinds: type) -> Callable[[Callable[..., Awaitable[Answer]]], Callable[[Any], Awaitable[Answer]]]:
    """Decorate a function with arguments of these types so that gradio can call it with a list of them.

    A list of another length, or with a value of another type, is refused with status 422 and one sentence.
    """

    def decorate(function: Callable[..., Awaitable[Answer]]) -> Callable[[Any], Awaitable[Answer]]:
        async def call(data: Any) -> Answer:
            # The exact type, because JSON's true is not a number.
            if not isinstance(data, list) or [type(value) for value in data] != [*kinds]:
                names = ", ".join(kind.__name__ for kind in kinds)
                raise HTTPException(422, f"{function.__name__} takes a list of {len(kinds)} values: {names}.")
            return await function(*data)

        call.__name__ = function.__name__  # but not its signature, which gradio would inspect
        return call

    return decorate
