"""`/ui`: the files of the page, as they lie in the package, and what it asks of the server."""

import mimetypes
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, RedirectResponse, Response

from hypersteer.lm.messages import prompted

FOLDER = Path(__file__).with_name("page")
HEADERS = {
    # Nothing from elsewhere, no inline script or style: text of a model can never become either.
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
TYPES = {".js": "text/javascript", ".json": "application/json", ".svg": "image/svg+xml"}


def add(app: FastAPI) -> None:
    """Add the routes of the page to an application."""
    files = {path.name: path.read_bytes() for path in sorted(FOLDER.iterdir()) if path.is_file()}

    @app.get("/ui", include_in_schema=False)
    def to_page() -> Response:
        # Relative, so that the page works behind a path of a proxy, too.
        return RedirectResponse("ui/", 307)

    @app.get("/ui/", include_in_schema=False)
    def page() -> Response:
        return _file("index.html", files["index.html"])

    @app.get("/ui/words.json", include_in_schema=False)
    def words() -> Response:
        # How a steering prompt is said has one home; the page fills it in for its own requests.
        said: Any = prompted("{prompt}", "{steering}")
        return JSONResponse({"prompted": said}, headers=HEADERS)

    @app.get("/ui/{name}", include_in_schema=False)
    def file(name: str) -> Response:
        if name not in files:
            return Response("no such file", 404, HEADERS, "text/plain")
        return _file(name, files[name])

    @app.get("/favicon.ico", include_in_schema=False)
    def icon() -> Response:
        return _file("icon.svg", files["icon.svg"])


def _file(name: str, content: bytes) -> Response:
    suffix = Path(name).suffix
    kind = TYPES.get(suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    return Response(content, headers=HEADERS, media_type=kind)
