"""Pushing: an exported folder as one commit of a repository of the Hub.

The token is huggingface_hub's own affair: it is in its environment variable or its store, and is
neither read nor shown here. Does not belong here: what the folder holds (`export`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    constants,
    get_token,
)
from huggingface_hub.errors import RepositoryNotFoundError

from react_pipeline.store import InputError, ReactError
from react_pipeline.use import RECORD_FILE

_NAME = re.compile(r"[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95}", re.ASCII)
_OF_A_NEW_ONE = frozenset({".gitattributes", "README.md"})
_QUERY = re.compile(r"\?\S*")


def files_of(folder: Path) -> dict[str, int]:
    """The files that are sent, and their bytes."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}


@dataclass(frozen=True)
class Repository:
    """A repository of the Hub, of a model or a Space."""

    name: str
    kind: Literal["model", "space"]

    @classmethod
    def named(cls, name: str, kind: Literal["model", "space"]) -> Self:
        """The repository of this name.

        Raises:
            InputError: If it is not written OWNER/NAME.
        """
        if not _NAME.fullmatch(name):
            raise InputError(f"--push {name!r}: write OWNER/NAME, as the Hub names a repository")
        return cls(name, kind)

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    def require_writable(self, overwrite: bool) -> None:
        """Refuse what could not be sent.

        Raises:
            InputError: Without a token, with one that is not accepted, or if the repository holds
                files: unless they are of an earlier export, which `overwrite` replaces.
            ReactError: If the Hub cannot be reached.
        """
        if get_token() is None:
            raise InputError(
                "--push: no token of the Hub; set HF_TOKEN, or log in with `hf auth login`"
            )
        with self._readable_errors("nothing was sent"):
            HfApi().whoami()
            self._files(overwrite)

    def send(self, folder: Path, overwrite: bool) -> str:
        """Make the repository hold what the folder holds, in one commit; a new one is private.

        Returns:
            The address of the commit.

        Raises:
            InputError: If the token may not write there, or the repository is in use.
            ReactError: If the upload fails; the repository then shows what it showed before.
        """
        sdk = "gradio" if self.kind == "space" else None
        state = (
            f"{folder} is written, and a commit is whole or absent, so that nothing is half "
            "published; push again with --overwrite"
        )
        with self._readable_errors(state):
            api = HfApi()
            api.create_repo(
                self.name, repo_type=self.kind, private=True, exist_ok=True, space_sdk=sdk
            )
            files = files_of(folder)
            stale = self._files(overwrite) - files.keys() - {".gitattributes"}
            # `upload_folder` may split a folder into several commits, which can end half way.
            commit = api.create_commit(
                self.name,
                [
                    *(CommitOperationAdd(name, folder / name) for name in files),
                    *(CommitOperationDelete(name) for name in sorted(stale)),
                ],
                commit_message="Export of react_pipeline",
                repo_type=self.kind,
            )
        return str(commit.commit_url)

    def _files(self, overwrite: bool) -> set[str]:
        """What the repository holds.

        Raises:
            InputError: If that may not be replaced.
        """
        try:
            files = set(HfApi().list_repo_files(self.name, repo_type=self.kind))
        except RepositoryNotFoundError:
            return set()
        if files <= _OF_A_NEW_ONE or (overwrite and RECORD_FILE in files):
            return files
        remedy = "add --overwrite" if RECORD_FILE in files else "no export wrote them: name another"
        raise InputError(f"{self}: exists and holds files; {remedy}")

    @contextmanager
    def _readable_errors(self, state: str) -> Iterator[None]:
        try:
            yield
        except ReactError:
            raise
        except Exception as error:  # of two HTTP clients, over the versions of huggingface_hub
            status = getattr(getattr(error, "response", None), "status_code", 0)
            if status in (401, 403):
                raise InputError(
                    f"{self}: {constants.ENDPOINT} refuses the token ({status}); set HF_TOKEN to "
                    f"one with the right to write there, or take another OWNER; {state}"
                ) from error
            # The address of an upload is signed.
            text = _QUERY.sub("", " ".join(f"{error} {error.__cause__ or ''}".split()))[:300]
            raise ReactError(f"{self}: {constants.ENDPOINT}: {text}; {state}") from error
