"""The server: the page, and the videos of the index and no other file."""

from mimetypes import guess_type
from pathlib import Path

import gradio
from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse

from scripts.searching.query import VideoIndex
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
    """The page at "/", and each used video of the index at "/video/<number>", numbers in the order of the manifest."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    files = list(explorer.index.manifest.files)

    @app.get("/video/{number}")
    def video(number: int) -> FileResponse:
        """A video, or the bytes of it that the browser asks for."""
        path = _servable(explorer.index, files[number]) if 0 <= number < len(files) else None
        if path is None:
            raise HTTPException(404)
        return FileResponse(path, media_type=MEDIA_TYPES.get(path.suffix.lower()) or guess_type(path.name)[0])

    addresses = {
        file: f"/video/{number}" for number, file in enumerate(files) if _servable(explorer.index, file) is not None
    }
    page = build_page(explorer, addresses)
    options = {"css": STYLE, "footer_links": [], "show_error": False, "ssr_mode": False, "max_file_size": "1kb"}
    return gradio.mount_gradio_app(app, page, path="/", **options)


def _servable(index: VideoIndex, name: str) -> Path | None:
    """The file of a used video, if it lies below the folder of the index whatever links lead to it."""
    if name in index.skipped:
        return None
    try:
        path = index.file(name).resolve(strict=True)
        folder = Path(index.manifest.folder).resolve(strict=True)
    except OSError:
        return None
    return path if folder in path.parents and path.is_file() else None
