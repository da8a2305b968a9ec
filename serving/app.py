"""The web application: routes, keys, limits, counters, and every error as JSON."""

import logging
import time
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .batching import FullError
from .openai_routes import openai_routes
from .schemas import ErrorBody, HealthAnswer
from .server import ApiError, Server, as_api_error
from .task_routes import in_words, task_routes

logger = logging.getLogger(__name__)
_FAULTS: Any = {
    code: {"model": ErrorBody, "description": words}
    for code, words in {
        400: "A bad request.", 401: "No API key.", 404: "No such model.", 408: "A body did not come in time.",
        413: "Too large.", 415: "No such format.",
        503: "Too many requests wait; try again.", 504: "Not in time.",
    }.items()
}  # fmt: skip


def create_app(server: Server) -> FastAPI:
    """The application of a server, for uvicorn or any other ASGI server."""
    bearer = HTTPBearer(auto_error=False, description="One of the server's API keys, if it has any.")

    async def key(given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> None:
        server.check_key(None if given is None else given.credentials)

    app = FastAPI(title="MM", description="Multimodal models over HTTP.", docs_url=None, redoc_url=None)
    with_key = {"dependencies": [Depends(key)], "responses": _FAULTS}
    app.include_router(openai_routes(server), **with_key)
    app.include_router(task_routes(server), **with_key)

    @app.get("/health", responses={503: {"model": HealthAnswer, "description": "Shutting down."}})
    async def health(response: Response) -> HealthAnswer:
        """Whether the server takes requests."""
        response.status_code = 503 if server.is_draining else 200
        return HealthAnswer(status="draining" if server.is_draining else "ok", models=list(server.engines))

    @app.get("/metrics", dependencies=[Depends(key)], response_class=Response, responses={401: _FAULTS[401]})
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(server.telemetry.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def told(request: Request, error: Exception) -> JSONResponse:
        fault = as_api_error(error)
        if fault is None:
            logger.error("a fault of the server", exc_info=error)
            fault = ApiError(500, "a fault of the server; its log has more")
        return JSONResponse(fault.body(), fault.status, headers=fault.headers)

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return await told(request, ApiError(400, in_words(error.errors())))

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, StarletteHTTPException)
        headers = dict(error.headers or {})
        return await told(request, ApiError(error.status_code, str(error.detail), headers=headers))

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(StarletteHTTPException, http)
    for kind in (ApiError, FullError, ValueError, Exception):
        app.add_exception_handler(kind, told)
    app.add_middleware(Gate, server=server)
    return app


class Gate:
    """Counts requests, and refuses bodies that are too large, by what they say and by what comes, or too slow."""

    def __init__(self, app: ASGIApp, server: Server):
        self.app, self.server = app, server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500
        telemetry, most = self.server.telemetry, self.server.settings.max_body
        came, is_whole = 0, False

        async def counted() -> Message:
            nonlocal came, is_whole
            if is_whole:  # then it waits for the client to leave
                return await receive()
            rest = max(0.0, start + self.server.settings.timeout - time.perf_counter())
            try:
                message = await self.server.before_the_end(receive(), rest)
            except TimeoutError:
                words = f"the request did not come within {self.server.settings.timeout:g} seconds"
                raise HTTPException(408, words, {"Connection": "close"}) from None
            except ApiError as error:
                raise HTTPException(error.status, str(error), {"Connection": "close"}) from None
            is_whole = message["type"] == "http.request" and not message.get("more_body", False)
            came += len(message.get("body", b""))
            if came > most:
                raise HTTPException(413, f"the request is larger than {most} bytes")
            return message

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        telemetry.now.inc()
        try:
            length = dict(scope["headers"]).get(b"content-length", b"0")
            if length.isdigit() and int(length) > most:
                fault = ApiError(413, f"the request is larger than {most} bytes", headers={"Connection": "close"})
                await JSONResponse(fault.body(), 413, headers=fault.headers)(scope, receive, noted)
            else:
                await self.app(scope, counted, noted)
        finally:
            telemetry.now.dec()
            route = getattr(scope.get("route"), "path", "other")
            telemetry.requests.labels(route, status).inc()
            telemetry.seconds.labels(route).observe(time.perf_counter() - start)
