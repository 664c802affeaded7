"""The server: the page, and the videos of the index and no other file."""

from mimetypes import guess_type

import gradio
from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse

from scripts.webdemo.explorer import Explorer
from scripts.webdemo.page import STYLE, build_page

MEDIA_TYPES = {
    ".ts": "video/mp2t",
    ".mkv": "video/x-matroska",
    ".avi": "video/x-msvideo",
    ".flv": "video/x-flv",
    ".wmv": "video/x-ms-wmv",
    ".m4v": "video/mp4",
}
"""Of endings that the system knows as something else, or not at all."""


def build_app(explorer: Explorer) -> FastAPI:
    """The page at "/", and each video of the index at "/video/<number>", numbers in the order of the manifest."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    files = list(explorer.index.manifest.files)

    @app.get("/video/{number}")
    def video(number: int) -> FileResponse:
        """A video, or the bytes of it that the browser asks for."""
        if not 0 <= number < len(files) or not explorer.index.file(files[number]).is_file():
            raise HTTPException(404)
        path = explorer.index.file(files[number])
        return FileResponse(path, media_type=MEDIA_TYPES.get(path.suffix.lower()) or guess_type(path.name)[0])

    page = build_page(explorer, {file: f"/video/{number}" for number, file in enumerate(files)})
    return gradio.mount_gradio_app(app, page, path="/", css=STYLE, footer_links=[], show_error=False, ssr_mode=False)
