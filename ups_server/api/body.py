"""Rollout requests from the wire: JSON, or an array with the JSON beside it in safetensors or npz."""

from fastapi import Request

from ups_server.errors import UserError
from ups_server.specs import RolloutRequest
from ups_server.tensors import NPZ, SAFETENSORS, Arrays, from_npz, from_safetensors

JSON = "application/json"
SAFETENSORS_TYPES = (SAFETENSORS, "application/x-safetensors")
MEDIA_TYPES = (JSON, *SAFETENSORS_TYPES, NPZ)
REQUEST_ENTRY = "request"
"""Metadata key (safetensors) or entry (npz) that holds the JSON request of a binary body."""


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body, never more than `limit` bytes of it.

    Raises:
        UserError: ``body_too_large``.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise _too_large(int(announced), limit)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise _too_large(f"more than {limit}", limit)
    return bytes(body)


def media_type(request: Request) -> str:
    """What the body is; JSON where nothing is said.

    Raises:
        UserError: ``unsupported_media_type``.
    """
    header = request.headers.get("content-type", JSON)
    essence = header.partition(";")[0].strip().lower()
    if essence not in MEDIA_TYPES:
        raise UserError(
            "unsupported_media_type", "the body has a media type that is not read", got=header, expected=MEDIA_TYPES
        )
    return essence


def decode(body: bytes, kind: str, limit: int) -> tuple[RolloutRequest, Arrays | None]:
    """The request, and the arrays of a binary body.

    Raises:
        UserError: whatever is wrong with the bytes.
    """
    if kind == JSON:
        return RolloutRequest.from_json(body), None
    arrays, texts = from_npz(body, limit) if kind == NPZ else from_safetensors(body)
    if REQUEST_ENTRY not in texts:
        raise UserError(
            "invalid_body",
            f"the body has no {REQUEST_ENTRY!r}",
            got=sorted(texts),
            expected=f"the JSON request as text: metadata key {REQUEST_ENTRY!r} of safetensors, entry of npz",
        )
    return RolloutRequest.from_json(texts[REQUEST_ENTRY]), arrays


def _too_large(got: int | str, limit: int) -> UserError:
    return UserError("body_too_large", "the request body is too large", got=got, expected=f"at most {limit} bytes")
