"""The user's mistakes.

A `UserError` is the fault of whoever asked; every other exception is ours. The API renders it as an RFC 9457
problem document, the command line as one sentence and exit code 2.
"""

from typing import Any

HTTP_STATUS = {
    "invalid_json": 400,
    "invalid_body": 400,
    "missing_key": 401,
    "invalid_key": 401,
    "insufficient_scope": 403,
    "foreign_origin": 403,
    "unknown_family": 404,
    "unknown_model": 404,
    "unknown_file": 404,
    "unknown_job": 404,
    "unknown_key": 404,
    "unknown_webhook": 404,
    "not_found": 404,
    "body_stalled": 408,
    "wrong_state": 409,
    "offset_mismatch": 409,
    "upload_displaced": 409,
    "idempotency_conflict": 409,
    "job_finished": 409,
    "job_not_resumable": 409,
    "job_open": 409,
    "result_not_ready": 409,
    "result_expired": 410,
    "model_in_use": 409,
    "file_in_use": 409,
    "not_deletable": 409,
    "too_many_webhooks": 409,
    "body_too_large": 413,
    "file_too_large": 413,
    "too_many_bytes": 413,
    "too_much_data": 413,
    "unsupported_media_type": 415,
    "range_not_satisfiable": 416,
    "unsupported_encoding": 415,
    "foreign_host": 421,
    "not_acceptable": 406,
    "queue_full": 429,
    "rate_limited": 429,
    "compute_quota_exceeded": 429,
    "engine_unavailable": 503,
    "database_busy": 503,
    "quota_exceeded": 507,
    "storage_full": 507,
}
"""Error codes with a status of their own; all others are 422."""

EXIT_CODE = 2


class UserError(Exception):
    """A request that cannot be answered as it stands.

    Args:
        code: stable snake_case identifier, part of the public interface.
        message: one clear sentence.
        got: what was received.
        expected: what would have been accepted.
        hint: what to do next.
    """

    def __init__(
        self, code: str, message: str, *, got: Any = None, expected: Any = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.got = got
        self.expected = expected
        self.hint = hint

    @property
    def status(self) -> int:
        return HTTP_STATUS.get(self.code, 422)

    def __str__(self) -> str:
        parts = [self.message]
        if self.got is not None:
            parts.append(f"got {self.got}")
        if self.expected is not None:
            parts.append(f"expected {self.expected}")
        if self.hint:
            parts.append(self.hint)
        return "; ".join(parts)

    def problem(self) -> dict[str, Any]:
        """The RFC 9457 problem document."""
        document = {
            "type": f"urn:ups:error:{self.code}",
            "title": self.code.replace("_", " "),
            "status": self.status,
            "detail": self.message,
            "code": self.code,
            "got": self.got,
            "expected": self.expected,
            "hint": self.hint,
        }
        return {key: value for key, value in document.items() if value is not None}
