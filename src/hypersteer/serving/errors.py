"""What a client is told when something is wrong: OpenAI's error format, one clear line."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from hypersteer.errors import SteeringError, one_line, short

KINDS = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}

RETRY_SECONDS = 2
"""What a client that is turned away is told to wait."""
WRONG_FORM = ("string_type", "list_type", "model_type", "int_type", "literal_error")
FORMS = ("str", "Part")
"""Names of forms in pydantic's places, which are no fields of what was sent."""


class Told(BaseModel):
    """What is wrong."""

    message: str
    """One line."""
    type: str
    """A word for the kind of error."""
    param: str | None
    """The field at fault."""
    code: str | None
    """A word for programs."""


class ErrorReply(BaseModel):
    """Every answer that is an error."""

    error: Told


REPLIES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorReply, "description": "The request is at fault; the message says how."},
    "5XX": {"model": ErrorReply, "description": "The server is at fault."},
}
"""What the schema says of errors, for every route."""


class Refused(Exception):
    """A request that is answered with an error.

    Args:
        message: one line.
        status: of HTTP.
        param: the field at fault.
        code: a word for programs.
        headers: beside it.
    """

    def __init__(
        self,
        message: str,
        status: int = 400,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code
        self.headers = dict(headers or {})


def queue_full(waiting: int) -> Refused:
    """Return what a client is told where so many requests wait that no more are taken."""
    return Refused(
        f"{waiting} requests wait already; try again in a while",
        429,
        code="queue_full",
        headers={"Retry-After": str(RETRY_SECONDS)},
    )


def refused(error: Exception, param: str | None = None) -> Refused:
    """Return how an exception is told: what a user can mend as 400, all else as 500."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, SteeringError):
        return Refused(str(error), param=param)
    return Refused(
        f"{type(error).__name__}: {one_line(error)}", 500, code="internal_error", param=param
    )


def body_of(error: Refused) -> dict[str, Any]:
    """Return an error as OpenAI's clients read it."""
    kind = KINDS.get(error.status)
    if kind is None:
        kind = "invalid_request_error" if error.status < 500 else "server_error"
    return {
        "error": {
            "message": str(error),
            "type": kind,
            "param": error.param,
            "code": error.code,
        }
    }


def install(app: FastAPI) -> None:
    """Let an application tell all of its errors so."""

    @app.exception_handler(Refused)
    async def told(_request: Request, error: Refused) -> JSONResponse:
        return JSONResponse(body_of(error), error.status, error.headers)

    @app.exception_handler(SteeringError)
    async def steering(_request: Request, error: SteeringError) -> JSONResponse:
        return JSONResponse(body_of(refused(error)), 400)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse(body_of(_first(error)), 400)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        told = f"{request.method} {request.url.path}: {error.detail}"
        headers = dict(error.headers or {})
        if error.status_code == 405:  # each route knows its own methods only
            headers["Allow"] = ", ".join(_methods(app, request))
        return JSONResponse(body_of(Refused(told, error.status_code)), error.status_code, headers)

    @app.exception_handler(Exception)
    async def fault(_request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(body_of(refused(error)), 500)


def _methods(app: FastAPI, request: Request) -> list[str]:
    """Return the methods that there are at a request's path."""
    found = [
        route.methods or ()
        for route in app.routes
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE
    ]
    return sorted({method for methods in found for method in methods})


def _first(error: RequestValidationError) -> Refused:
    """Return the first fault of a request's fields, in one line that names the field."""
    faults = error.errors()
    # What may have several forms is told of once for each; the form that fits furthest was meant.
    same = [one for one in faults if one["loc"][:2] == faults[0]["loc"][:2]]
    found = max(same, key=lambda one: (len(one["loc"]), one["type"] not in WRONG_FORM))
    place = [str(part) for part in found["loc"] if part not in ("body", "query", "path")]
    field = ".".join(one for one in place if not one.endswith(("]", ")")) and one not in FORMS)
    given = found.get("input")
    if found["type"] == "extra_forbidden":
        return Refused(
            f"'{field}' is not supported; leave it out", param=field, code="unsupported_parameter"
        )
    if found["type"] == "missing":
        return Refused(f"'{field}' is missing", param=field)
    if found["type"] == "json_invalid":
        return Refused(f"the request is no JSON: {one_line(found.get('ctx', {}).get('error', ''))}")
    what = f"'{field}' = {short(given)}: " if field else ""
    return Refused(f"{what}{one_line(found['msg'])}", param=field or None)
