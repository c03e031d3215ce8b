"""Stored files: what a job may read. An id becomes a folder below the data folder, never a user's path."""

import re
from pathlib import Path

from ups_server.errors import UserError

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def stored_file(data_dir: Path, file_id: str) -> Path:
    """The folder of the transcoded store of an uploaded file that is ready.

    Raises:
        UserError: ``unknown_file``.
    """
    store = data_dir / "files" / file_id / "store"
    if not ID.fullmatch(file_id) or not (store / "manifest.json").is_file():
        raise UserError("unknown_file", f"there is no file {file_id!r} that is ready", got=file_id)
    return store
