"""Folders that several machines share: by one disk, or by an object store that each has copies of.

A data folder has `files/`, `models/`, `rollouts/` and `jobs/`, and in each of them folders that are whole at certain
moments. There, whoever changes one makes it known (`push`); whoever needs one gets it (`pull`). With one disk there is
nothing to do for either.

In an object store a folder is its files by SHA-256, and `manifest.json`, which names them and is replaced last: others
see all of a change or nothing of it, and what did not change is not sent again.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, final

from ups_server.errors import UserError
from ups_server.settings import Settings

MANIFEST = "manifest.json"
KNOWN = ".shared"
"""Folder beside the shared ones: the manifest that each was last sent or fetched with."""
PIECE = 2**20
NAME = re.compile(r"[a-z]+/[A-Za-z0-9][A-Za-z0-9._-]*")
FETCHES = 5
"""Times a folder is fetched that changes meanwhile."""

Manifest = dict[str, str]
"""SHA-256 of every file, by its path in the folder."""


class SharedFolders(ABC):
    """Names are of folders below the data folder, such as ``models/ups-mini-2f``."""

    @abstractmethod
    def push(self, name: str, without: Collection[str] = (), extra: Mapping[str, bytes] | None = None) -> None:
        """Makes a folder known as it is here now.

        Args:
            without: files in it that stay here.
            extra: files in it that are about to be written here, once others can have them.
        """

    @abstractmethod
    def pull(self, name: str) -> bool:
        """Has a folder here as it was last made known; False where it is unknown."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Forgets a folder; to be called before the one here goes. Copies stay until their machines synchronise."""

    @abstractmethod
    def synchronise(self, parent: str, whole: Callable[[Path], bool]) -> None:
        """Makes known what only this machine has, fetches what it lacks, and removes copies of what was forgotten.

        Args:
            whole: is a folder ready to be made known?
        """


@final
class OneDisk(SharedFolders):
    """The data folder is on a disk that everybody sees."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir

    def push(self, name: str, without: Collection[str] = (), extra: Mapping[str, bytes] | None = None) -> None:
        pass

    def pull(self, name: str) -> bool:
        return os.path.isdir(self._data_dir / name)  # False too for what no folder can be called

    def remove(self, name: str) -> None:
        pass

    def synchronise(self, parent: str, whole: Callable[[Path], bool]) -> None:
        pass


@final
class ObjectStore(SharedFolders):
    """Copies of what an object store has, in a data folder of this machine's own.

    Args:
        url: of the store, as fsspec has it: ``s3://bucket/prefix``.

    Raises:
        UserError: ``invalid_object_store``, ``extra_missing``.
    """

    def __init__(self, data_dir: Path, url: str) -> None:
        self._data_dir = data_dir
        try:
            import fsspec

            self._store, root = fsspec.url_to_fs(url)
        except ImportError as error:
            hint = "pip install 'ups-server[s3]'" if url.startswith("s3:") else None
            raise UserError("extra_missing", "the object store needs a package", got=str(error), hint=hint) from error
        except ValueError as error:
            message = "UPS_OBJECT_STORE is no address of an object store"
            raise UserError("invalid_object_store", message, got=str(error), expected="s3://bucket/prefix") from error
        self._root = root.rstrip("/")

    def push(self, name: str, without: Collection[str] = (), extra: Mapping[str, bytes] | None = None) -> None:
        there = self._manifest(name) or {}
        sent, manifest = set(there.values()), Manifest()
        for file in _files(self._data_dir / name):
            path = file.relative_to(self._data_dir / name).as_posix()
            if path in without:
                continue
            with file.open("rb") as stream:  # once: a file that is replaced meanwhile is sent as it was
                manifest[path] = digest = _digest(stream)
                if digest not in sent:
                    stream.seek(0)
                    with self._store.open(self._at(name, digest), "wb") as target:
                        shutil.copyfileobj(stream, target, PIECE)
                    sent.add(digest)
        for path, content in (extra or {}).items():
            manifest[path] = digest = hashlib.sha256(content).hexdigest()
            if digest not in sent:
                self._store.pipe_file(self._at(name, digest), content)
                sent.add(digest)
        if manifest != there:
            self._store.pipe_file(self._at(name, MANIFEST), json.dumps(manifest).encode())
        self._know(name, manifest)
        for digest in set(there.values()) - set(manifest.values()):
            self._delete(self._at(name, digest))

    def pull(self, name: str) -> bool:
        if not NAME.fullmatch(name):
            return False
        for _ in range(FETCHES):
            manifest = self._manifest(name)
            if manifest is None:
                return os.path.isdir(self._data_dir / name)
            if manifest == self._known(name) and (self._data_dir / name).is_dir():
                return True
            try:
                self._fetch(name, manifest)
            except FileNotFoundError:
                continue  # it has changed
            self._know(name, manifest)
            return True
        raise UserError("object_store_busy", f"{name} changes faster than it can be fetched")

    def remove(self, name: str) -> None:
        manifest = self._manifest(name) or {}
        for file in (MANIFEST, *set(manifest.values())):
            self._delete(self._at(name, file))

    def synchronise(self, parent: str, whole: Callable[[Path], bool]) -> None:
        there = {f"{parent}/{entry}" for entry in self._names(parent)}
        here = {f"{parent}/{entry.name}" for entry in _folders(self._data_dir / parent)}
        for name in sorted(there - here):
            self.pull(name)
        for name in sorted(here - there):
            if self._known(name) is not None:
                self._note(name).unlink()
                shutil.rmtree(self._data_dir / name, ignore_errors=True)
            elif whole(self._data_dir / name):
                self.push(name)

    def _fetch(self, name: str, manifest: Manifest) -> None:
        """Puts a copy in place, whole."""
        target = self._data_dir / name
        part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        try:
            part.mkdir(parents=True)
            for path, digest in manifest.items():
                file = part / path
                if not file.resolve().is_relative_to(part.resolve()):
                    raise UserError("damaged_object", f"{name} has a file outside of its folder", got=path)
                file.parent.mkdir(parents=True, exist_ok=True)
                self._store.get_file(self._at(name, digest), str(file))
                with file.open("rb") as stream:
                    if _digest(stream) != digest:
                        raise UserError("damaged_object", f"{path} of {name} is not what was stored", expected=digest)
            if target.exists():
                gone = part.with_suffix(".old")
                os.replace(target, gone)
                os.replace(part, target)
                shutil.rmtree(gone)
            else:
                os.replace(part, target)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _names(self, parent: str) -> set[str]:
        self._store.invalidate_cache()
        try:
            found = self._store.ls(f"{self._root}/{parent}", detail=False)
        except FileNotFoundError:
            return set()
        return {entry.rstrip("/").rpartition("/")[2] for entry in found}

    def _manifest(self, name: str) -> Manifest | None:
        try:
            found: Manifest = json.loads(self._store.cat_file(self._at(name, MANIFEST)))
        except FileNotFoundError:
            return None
        return found

    def _delete(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self._store.rm_file(path)

    def _at(self, name: str, file: str) -> str:
        return f"{self._root}/{name}/{file}"

    def _note(self, name: str) -> Path:
        return self._data_dir / KNOWN / f"{name}.json"

    def _known(self, name: str) -> Any:
        try:
            return json.loads(self._note(name).read_bytes())
        except FileNotFoundError:
            return None

    def _know(self, name: str, manifest: Manifest) -> None:
        note = self._note(name)
        note.parent.mkdir(parents=True, exist_ok=True)
        part = note.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(manifest), encoding="utf-8")
        os.replace(part, note)


def shared_folders(settings: Settings) -> SharedFolders:
    """Those of the settings. Raises UserError as `ObjectStore`."""
    if settings.object_store is None:
        return OneDisk(settings.data_dir)
    return ObjectStore(settings.data_dir, settings.object_store)


def _folders(parent: Path) -> Iterator[Path]:
    """A dot begins the names of what is still being written or removed."""
    if parent.is_dir():
        yield from (entry for entry in parent.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _files(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.rglob("*")):
        if file.is_file() and not file.name.endswith(".part"):
            yield file


def _digest(stream: BufferedReader) -> str:
    return hashlib.file_digest(stream, "sha256").hexdigest()
