"""Which format an answer takes: the Accept header against what the service offers."""

from ups_server.data.exporters import MEDIA_TYPES
from ups_server.errors import UserError

JSON = "json"
EVENTS = "events"

OFFERED = {
    "application/json": JSON,
    **{media_type: name for media_type, name in MEDIA_TYPES.items() if name != JSON},
    "application/x-safetensors": "safetensors",
    "application/netcdf": "netcdf",
    "text/event-stream": EVENTS,
}
"""Media type -> format of the answer, the preferred first: every exporter, and the event stream."""


def choose(accept: str | None) -> tuple[str, str]:
    """The (format, media type) a client prefers; JSON where it does not care.

    Raises:
        UserError: ``not_acceptable``.
    """
    ranges = [_media_range(part) for part in (accept or "*/*").split(",") if part.strip()]
    best, best_quality = None, 0.0
    for media_type in OFFERED:
        quality = _quality(media_type, ranges)
        if quality > best_quality:
            best, best_quality = media_type, quality
    if best is None:
        raise UserError("not_acceptable", "none of the accepted formats is offered", got=accept, expected=list(OFFERED))
    return OFFERED[best], best


def _media_range(part: str) -> tuple[str, float]:
    """`type/subtype` and its q."""
    name, *parameters = (piece.strip().lower() for piece in part.split(";"))
    quality = 1.0
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                quality = min(1.0, max(0.0, float(value)))
            except ValueError:
                quality = 0.0
    return name, quality


def _quality(media_type: str, ranges: list[tuple[str, float]]) -> float:
    """q of the most specific range that matches."""
    for pattern in (media_type, media_type.partition("/")[0] + "/*", "*/*"):
        qualities = [quality for name, quality in ranges if name == pattern]
        if qualities:
            return max(qualities)
    return 0.0
