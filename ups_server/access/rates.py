"""How often a key may ask: a bucket a key that fills evenly, in the memory of one process."""

import threading
import time
from collections.abc import Callable

MINUTE_S = 60.0


class RateLimiter:
    """Token buckets: as many requests at once as a minute allows, then at an even pace.

    Args:
        clock: seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, who: str, per_minute: int) -> float:
        """0 where the request may pass, else the seconds until one may."""
        with self._lock:
            now = self._clock()
            left, at = self._buckets.get(who, (float(per_minute), now))
            left = min(float(per_minute), left + (now - at) * per_minute / MINUTE_S)
            if left >= 1.0:
                self._buckets[who] = (left - 1.0, now)
                return 0.0
            self._buckets[who] = (left, now)
            return (1.0 - left) * MINUTE_S / per_minute
