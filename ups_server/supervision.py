"""A process that is started again whenever it ends."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from ups_server.settings import Settings

logger = logging.getLogger(__name__)

STEADY_S = 60.0
"""A process that lived this long was healthy: the pause before the next restart is short again."""


async def keep_alive(
    live: Callable[[], Awaitable[None]], restarted: Callable[[], None], settings: Settings, name: str
) -> None:
    """Runs `live`, one process from start to end, again and again, until cancelled.

    The pause before a restart doubles while the process keeps dying early; `restarted` is called after each.
    """
    pause = settings.engine_restart_s
    while True:
        began = time.monotonic()
        try:
            await live()
        except Exception:
            logger.exception("the %s process could not be run", name)
        if time.monotonic() - began > STEADY_S:
            pause = settings.engine_restart_s
        logger.warning("the %s ended; restart in %.1f s", name, pause)
        await asyncio.sleep(pause)
        pause = min(2 * pause, settings.engine_restart_max_s)
        restarted()
