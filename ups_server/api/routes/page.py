"""The page: `/` and the files it is made of, read once from the package."""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Response
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


@router.get("/")
def get_page() -> Response:
    """The page."""
    return answer(INDEX)


@router.get("/web/{name:path}")
def get_page_file(name: str) -> Response:
    """A script, style or picture of the page."""
    return answer(name)


def answer(name: str) -> Response:
    """A file; the browser asks every time whether it has it, so that a new version is seen at once."""
    file = page_files().get(name)
    if file is None:
        raise HTTPException(404)
    return Response(file.content, headers={"ETag": file.etag, "Cache-Control": "no-cache"}, media_type=file.media_type)
