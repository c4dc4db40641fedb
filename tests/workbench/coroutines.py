"""Run coroutines in tests that are not coroutines."""

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Value = TypeVar("Value")

_THREAD = ThreadPoolExecutor(1, "coroutines")


def finish(coroutine: Coroutine[Any, Any, Value]) -> Value:
    """Run a coroutine in a separate thread, because browser tests may have left an event loop running in this one."""
    return _THREAD.submit(asyncio.run, coroutine).result()
