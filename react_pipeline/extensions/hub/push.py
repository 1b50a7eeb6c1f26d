"""Pushing: an exported folder as a repository of the Hub.

The token is huggingface_hub's own affair: it is in its environment variable or its store, and is
neither read nor shown here. Does not belong here: what the folder holds (`export`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HFValidationError

from react_pipeline.store import InputError, ReactError

_QUERY = re.compile(r"\?\S*")
_REFUSALS = {
    401: "the Hub refuses the token; set HF_TOKEN, or log in with `hf auth login`",
    403: "the token may not write there; set HF_TOKEN to one that may, or take another OWNER",
    409: "exists; add --overwrite to replace what it holds",
}


def create_repository(name: str, *, overwrite: bool) -> None:
    """Create a private repository for a model, or with `overwrite` take one that exists.

    Raises:
        InputError: If the name is none, the token may not write there, or it exists.
        ReactError: If the Hub cannot be reached.
    """
    with _readable_errors(name, "nothing was sent"):
        HfApi().create_repo(name, private=True, exist_ok=overwrite)


def upload(folder: Path, name: str) -> str:
    """Make a repository hold what a folder holds; return the address of the commit.

    Raises:
        InputError: If the token may not write there.
        ReactError: If the upload fails.
    """
    with _readable_errors(name, f"{folder} is written; push again with --overwrite"):
        commit = HfApi().upload_folder(
            repo_id=name,
            folder_path=folder,
            delete_patterns="*",
            commit_message="Export of react_pipeline",
        )
    return str(commit.commit_url)


@contextmanager
def _readable_errors(name: str, state: str) -> Iterator[None]:
    try:
        yield
    except HFValidationError as error:
        raise InputError(f"--push {name!r}: write OWNER/NAME ({error})") from error
    except Exception as error:  # of two HTTP clients, over the versions of huggingface_hub
        status = getattr(getattr(error, "response", None), "status_code", 0)
        if refusal := _REFUSALS.get(status):
            raise InputError(f"--push {name}: {refusal} ({status}); {state}") from error
        # The address of an upload is signed.
        text = _QUERY.sub("", " ".join(f"{error} {error.__cause__ or ''}".split()))[:300]
        raise ReactError(f"--push {name}: {constants.ENDPOINT}: {text}; {state}") from error
