"""Threads for clients' work, so that starting and ending engines, in asyncio's own, never waits behind clients."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

Given = ParamSpec("Given")
Result = TypeVar("Result")

_threads = ThreadPoolExecutor(4, thread_name_prefix="client")  # few: they take turns with the event loop


async def in_thread(work: Callable[Given, Result], *given: Given.args, **named: Given.kwargs) -> Result:
    """What `work` gives, worked out in one of these threads."""
    return await asyncio.get_running_loop().run_in_executor(_threads, lambda: work(*given, **named))
