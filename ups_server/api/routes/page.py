"""The page: `/` and the files it is made of, read once from the package."""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

FOLDER = Path(__file__).resolve().parents[2] / "web"
INDEX = "index.html"
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Suffix -> media type: files with other suffixes are not served."""

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class PageFile:
    """One file of the page; equal etags mean equal bytes."""

    content: bytes
    media_type: str
    etag: str


@cache
def page_files() -> dict[str, PageFile]:
    """Every file by its path below the folder. A request is looked up here and never becomes a path."""
    files = {}
    for path in sorted(FOLDER.rglob("*")):
        if path.suffix in MEDIA_TYPES:
            content = path.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            files[path.relative_to(FOLDER).as_posix()] = PageFile(content, MEDIA_TYPES[path.suffix], etag)
    return files


@router.api_route("/", methods=["GET", "HEAD"])
def get_page(request: Request) -> Response:
    """The page."""
    return answer(request, INDEX)


@router.api_route("/web/{name:path}", methods=["GET", "HEAD"])
def get_page_file(request: Request, name: str) -> Response:
    """A script, style or picture of the page."""
    return answer(request, name)


def answer(request: Request, name: str) -> Response:
    """A file, or 304 where the browser has it: it asks every time, so that a new version is seen at once."""
    file = page_files().get(name)
    if file is None:
        raise HTTPException(404)
    headers = {"ETag": file.etag, "Cache-Control": "no-cache"}
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if file.etag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.media_type)
