"""`/v1/edits`: make, list, fetch, send and delete named edits."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from hypersteer.config.serving import ServeConfig
from hypersteer.edits.edit import Edit
from hypersteer.edits.edit_set import EditSet
from hypersteer.errors import SteeringError
from hypersteer.lm.edited import sites_of
from hypersteer.serving.apart import apart
from hypersteer.serving.errors import Refused
from hypersteer.serving.plan import check_length, model_alone
from hypersteer.serving.schema import NewEdit
from hypersteer.serving.served import Served
from hypersteer.serving.stored import StoredEdits, about

BYTES = "application/octet-stream"
A_FILE: dict[str, Any] = {"content": {BYTES: {"schema": {"type": "string", "format": "binary"}}}}
"""What the schema says of a file."""


def add(
    app: FastAPI, served: Mapping[str, Served], stored: StoredEdits, config: ServeConfig
) -> None:
    """Add the routes of the stored edits to an application."""

    @app.post("/v1/edits", tags=["edits"], status_code=201)
    async def make(asked: NewEdit) -> dict[str, Any]:
        """Make the edit of a steering prompt, and keep it under a name."""
        check_length(asked.text, config, "the steering prompt", "text")
        return await apart(_make, asked, served, stored)

    @app.get("/v1/edits", tags=["edits"])
    def listed() -> dict[str, Any]:
        """List the stored edits."""
        data = []
        for name in stored.names():
            try:
                data.append(about(name, stored.read(name)))
            except SteeringError as error:
                data.append({"object": "edit", "name": name, "error": str(error)})
        return {"object": "list", "data": data}

    @app.get("/v1/edits/{name}", tags=["edits"])
    def described(name: str) -> dict[str, Any]:
        """Describe a stored edit."""
        return about(name, stored.read(name))

    @app.get(
        "/v1/edits/{name}/file",
        tags=["edits"],
        response_class=Response,
        responses={200: {"description": "The file.", **A_FILE}},
    )
    def fetched(name: str) -> Response:
        """Return the safetensors file of a stored edit."""
        return Response(
            stored.content(name),
            media_type=BYTES,
            headers={"Content-Disposition": f'attachment; filename="{name}.safetensors"'},
        )

    @app.put(
        "/v1/edits/{name}/file",
        tags=["edits"],
        status_code=201,
        openapi_extra={"requestBody": {"required": True, **A_FILE}},
    )
    async def sent(name: str, request: Request) -> dict[str, Any]:
        """Keep the safetensors file of an edit, as `edit.save` writes it, under a name."""
        content = await request.body()
        return await apart(_take, name, content, served, stored)

    @app.delete("/v1/edits/{name}", tags=["edits"])
    def deleted(name: str) -> dict[str, Any]:
        """Remove a stored edit."""
        stored.delete(name)
        return {"object": "edit", "name": name, "deleted": True}


def _make(asked: NewEdit, served: Mapping[str, Served], stored: StoredEdits) -> dict[str, Any]:
    model = model_alone(asked.model or next(iter(served)), list(served))
    edit = served[model].steerer.edit(asked.text, asked.prompt, scope=asked.scope)
    if asked.strength != 1:
        edit = asked.strength * edit
    stored.write(asked.name, edit)
    return about(asked.name, edit)


def _take(
    name: str, content: bytes, served: Mapping[str, Served], stored: StoredEdits
) -> dict[str, Any]:
    """Keep a file that is an edit for one of the base LMs."""

    def check(edit: Edit | EditSet) -> None:
        faults = []
        for one in served.values():
            try:
                sites_of(one.steerer.lm, edit)
            except SteeringError as error:
                faults.append(error)
        if len(faults) == len(served):
            raise Refused(str(faults[0]), param="file")

    return about(name, stored.take(name, content, check))
