"""The engine's refusals, in the error shape of the OpenAI protocol."""

from __future__ import annotations

from typing import Any


class EngineError(Exception):
    """A refusal with its HTTP status. The message says what to do."""

    status = 500
    type = "server_error"
    code = "internal_error"
    retry_after: int | None = None  # seconds

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.param = param

    def body(self) -> dict[str, Any]:
        """`{"error": {...}}`, also what goes down a stream that fails in the middle."""
        shape = {"type": self.type, "code": self.code, "message": self.message, "param": self.param}
        return {"error": shape}


class InvalidRequest(EngineError):
    status, type, code = 400, "invalid_request_error", "invalid_value"


class Unauthorized(EngineError):
    status, type, code = 401, "authentication_error", "invalid_api_key"


class NotFound(EngineError):
    status, type, code = 404, "invalid_request_error", "model_not_found"


class TooSlow(EngineError):
    status, type, code = 408, "invalid_request_error", "body_timeout"


class Conflict(EngineError):
    status, type, code = 409, "invalid_request_error", "conflict"


class TooLarge(EngineError):
    status, type, code = 413, "invalid_request_error", "body_too_large"


class Overloaded(EngineError):
    status, type, code, retry_after = 429, "rate_limit_error", "overloaded", 1


class Unavailable(EngineError):
    status, type, code, retry_after = 503, "server_error", "unavailable", 2


class DeadlineExceeded(EngineError):
    status, type, code = 504, "server_error", "deadline_exceeded"


class OutOfMemory(EngineError):
    status, type, code = 507, "server_error", "out_of_memory"
