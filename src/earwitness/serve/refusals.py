"""What is answered to a request that is not served."""

from __future__ import annotations

from typing import Any


class Refused(Exception):  # noqa: N818 - named for what it is
    """A request that is not served: the HTTP status, words for whoever sent it, and a code for their program."""

    def __init__(self, message: str, status: int = 400, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code = status, code

    def body(self) -> dict[str, Any]:
        """Return the error in the shape of the protocol."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": str(self), "type": kind, "param": None, "code": self.code}}
