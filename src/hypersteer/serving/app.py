"""The application: OpenAI's endpoints, the stored edits, what monitors ask, and the page."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import PlainTextResponse, Response
from starlette.middleware.cors import CORSMiddleware

from hypersteer.config.serving import ServeConfig
from hypersteer.serving import edit_routes, looks, page_routes
from hypersteer.serving.completions import EVENTS, Completions
from hypersteer.serving.errors import REPLIES, Refused, install
from hypersteer.serving.guard import Guard
from hypersteer.serving.metrics import Metrics
from hypersteer.serving.plan import Known
from hypersteer.serving.schema import ChatRequest, CompletionRequest
from hypersteer.serving.served import Served

STREAMED: dict[int | str, dict[str, Any]] = {
    200: {"description": "An answer; events of one with `stream`.", "content": {EVENTS: {}}}
}


def new_app(
    config: ServeConfig, served: Mapping[str, Served], known: Known, metrics: Metrics, key: str = ""
) -> FastAPI:
    """Return the application of a server.

    Args:
        config: limits.
        served: checkpoints by name.
        known: what requests may name.
        metrics: what is counted.
        key: what clients must send; empty for none.
    """

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        yield
        for worker in dict.fromkeys(one.worker for one in served.values()):
            await run_in_threadpool(worker.close, config.drain_seconds)

    app = FastAPI(
        title="hypersteer",
        summary="An OpenAI-compatible server that takes a steering prompt with every request.",
        lifespan=lifespan,
        docs_url="/docs",
        redoc_url=None,
        responses=REPLIES,
    )
    install(app)
    _add_completions(app, Completions(dict(served), known, config, metrics))
    _add_models(app, served)
    _add_monitoring(app, served, metrics)
    edit_routes.add(app, served, known.edits, config)
    looks.add(app, served, known, config)
    page_routes.add(app)
    app.add_middleware(Guard, config=config, metrics=metrics, key=key)
    if config.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(config.cors),
            allow_methods=["*"],
            allow_headers=["*"],
        )
    return app


def _add_completions(app: FastAPI, completions: Completions) -> None:
    @app.post("/v1/chat/completions", tags=["completions"], responses=STREAMED)
    async def chat(asked: ChatRequest, request: Request) -> Response:
        """Answer a chat, steered as `steering` says."""
        return await completions.answer(asked, request)

    @app.post("/v1/completions", tags=["completions"], responses=STREAMED)
    async def text(asked: CompletionRequest, request: Request) -> Response:
        """Go on with a text, steered as `steering` says."""
        return await completions.answer(asked, request)


def _add_models(app: FastAPI, served: Mapping[str, Served]) -> None:
    @app.get("/v1/models", tags=["models"])
    async def models() -> dict[str, Any]:
        """List what is served."""
        return {"object": "list", "data": [_model(one) for one in served.values()]}

    @app.get("/v1/models/{name:path}", tags=["models"])
    async def model(name: str) -> dict[str, Any]:
        """Describe one of it."""
        if name not in served:
            raise Refused(f"the model '{name[:80]}' is not served", 404, code="model_not_found")
        return _model(served[name])


def _model(one: Served) -> dict[str, Any]:
    card = one.steerer.card
    return {
        "id": one.name,
        "object": "model",
        "created": 0,
        "owned_by": "hypersteer",
        "base_lm": one.steerer.lm.name,
        "context_window": one.steerer.lm.context_window,
        "steering": {
            "variant": card.hypernet.variant,
            "edit": card.hypernet.edit,
            "prompted": card.prompted,
            "scope": card.scope,
            "generator": one.steerer.generator,
            "concepts": len(card.concepts),
        },
    }


def _add_monitoring(app: FastAPI, served: Mapping[str, Served], metrics: Metrics) -> None:
    @app.get("/health", tags=["monitoring"])
    async def health() -> dict[str, Any]:
        """Say that the server lives, and what it serves."""
        return {"status": "ok", "models": list(served)}

    @app.get("/metrics", tags=["monitoring"], response_class=PlainTextResponse)
    async def told() -> Response:
        """Return its counters in Prometheus's format."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
