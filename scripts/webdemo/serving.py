"""The server: the page, thumbnails, the videos of the index and no other file, and uploads."""

from mimetypes import guess_type

import gradio
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.requests import ClientDisconnect

from scripts.searching.query import Segment
from scripts.webdemo.addresses import servable
from scripts.webdemo.bodies import CheckedBodies
from scripts.webdemo.explorer import Explorer
from scripts.webdemo.messages import without_paths
from scripts.webdemo.page import SCRIPT, STYLE, build_page
from scripts.webdemo.playback import Converter
from utils.errors import InputError

MEDIA_TYPES = {
    ".ts": "video/mp2t",
    ".mkv": "video/x-matroska",
    ".avi": "video/x-msvideo",
    ".flv": "video/x-flv",
    ".wmv": "video/x-ms-wmv",
    ".m4v": "video/mp4",
}
"""Media types of endings that the system does not know, or not as videos."""
MAX_SEGMENT = 600.0
"""Maximum seconds of a converted segment."""


def build_app(explorer: Explorer, converter: Converter, examples: list[str]) -> FastAPI:
    """Build the server.

    "/" is the page, "/video/<path within the folder>" a video of the index, "/converted/<path>?start=&end=" a
    segment of it as all browsers play it, "/thumbnail/<key>" a picture of a result; "POST /upload?name=" takes a file.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    _serve_videos(app, explorer, converter)

    @app.post("/upload")
    async def upload(request: Request, name: str) -> JSONResponse:
        """Receive a picture or a video, and return its key."""
        try:
            return JSONResponse({"key": await explorer.uploads.receive(name, request.stream())})
        except InputError as error:
            return JSONResponse({"error": without_paths(str(error), explorer)}, 400)
        except ClientDisconnect:
            return JSONResponse({"error": "the file is too large, or came too slowly"}, 413)

    page = build_page(explorer, examples)
    options = {"css": STYLE, "head": SCRIPT, "footer_links": [], "show_error": False, "ssr_mode": False}
    app.add_middleware(CheckedBodies, page=page)
    return gradio.mount_gradio_app(app, page, path="/", max_file_size="1kb", **options)


def _serve_videos(app: FastAPI, explorer: Explorer, converter: Converter) -> None:
    """Add the addresses of videos, converted segments and thumbnails."""

    @app.get("/video/{name:path}")
    def video(name: str) -> FileResponse:
        """A video, or the bytes of it that the browser requests."""
        path = servable(explorer.index, name)
        if path is None:
            raise HTTPException(404)
        return FileResponse(path, media_type=MEDIA_TYPES.get(path.suffix.lower()) or guess_type(path.name)[0])

    @app.get("/converted/{name:path}")
    def converted(name: str, start: float, end: float) -> FileResponse:
        """A segment as H.264."""
        path = servable(explorer.index, name)
        if path is None or not 0 <= start < end <= start + MAX_SEGMENT:
            raise HTTPException(404)
        segment = Segment(name, start, end)
        try:
            return FileResponse(converter.segment(path, segment.start, segment.end), media_type="video/mp4")
        except InputError as error:
            raise HTTPException(404) from error

    @app.get("/thumbnail/{key}")
    def thumbnail(key: str) -> Response:
        """A frame of a result."""
        content = explorer.picture(key)
        if content is None:
            raise HTTPException(404)
        return Response(content, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})
