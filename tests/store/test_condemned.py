"""FAULTS 37: a build that was taken for dead wakes up; at any step, it publishes nothing torn."""

from __future__ import annotations

from pathlib import Path

import pytest

from react_pipeline.store import Scratch, StoreWriteError
from react_pipeline.store.artifacts import Inputs
from react_pipeline.store.store import Store

INPUTS = Inputs("thing", "all", {}, {}, "1")


def write(directory: Path, _: object = None) -> dict[str, int]:
    for name in ("a", "b"):
        (directory / name).write_text(name)
    return {}


def discard_all(store: Store) -> list[bool]:
    """Remove every attempt that is not published, as `prune` does."""
    entries = [entry.path.split("/") for entry in store.backend.heads(INPUTS.place)]
    prefixes = {"/".join(path[:4]) for path in entries if path[3].startswith("_")}
    return [store.discard(prefix) for prefix in prefixes]


@pytest.mark.parametrize("when", ["files are there", "before the manifest", "after the manifest"])
def test_an_attempt_is_published_whole_or_not_at_all(
    store: Store, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    backend = type(store.backend)
    finish, create = backend.finish, backend.create
    discarded: list[bool] = []

    def finish_and(self: object, prefix: str, *given: object) -> None:
        finish(self, prefix, *given)  # type: ignore[arg-type]
        if when == "files are there":
            discarded.extend(discard_all(store))

    def create_and(self: object, path: str, data: bytes) -> bool:
        if path.endswith("manifest.json") and when == "before the manifest":
            discarded.extend(discard_all(store))
        created = create(self, path, data)  # type: ignore[arg-type]
        if path.endswith("manifest.json") and when == "after the manifest":
            discarded.extend(discard_all(store))
        return created

    with monkeypatch.context() as patched:
        patched.setattr(backend, "finish", finish_and)
        patched.setattr(backend, "create", create_and)
        if when == "after the manifest":
            assert store.build(INPUTS, write).path
        else:
            with pytest.raises(StoreWriteError, match="run again"):
                store.build(INPUTS, write)
    assert discarded == [when != "after the manifest"]
    assert all(error is None for _, error in store.verify())
    assert store.build(INPUTS, write).reused == (when == "after the manifest")
    assert store.current("thing", "all").path


def test_what_is_published_between_two_looks_stays_whole(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The publisher looks before it is given back, or after; both end well."""
    backend = type(store.backend)
    create, delete = backend.create, backend.delete
    held: list[tuple[str, bytes]] = []

    def hold(self: object, path: str, data: bytes) -> bool:
        if path.endswith("manifest.json"):
            held.append((path, data))
            assert discard_all(store) == [False]
            return True
        return create(self, path, data)  # type: ignore[arg-type]

    def delete_and_publish(self: object, *paths: str) -> None:
        delete(self, *paths)  # type: ignore[arg-type]
        if held and "/_" in paths[0]:
            create(self, *held.pop())  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(backend, "create", hold)
        patched.setattr(backend, "delete", delete_and_publish)
        assert store.build(INPUTS, write).path
    assert [error for _, error in store.verify()] == [None]


def test_a_build_whose_scratch_is_gone_says_so(store: Store) -> None:
    def lose(directory: Path, scratch: Scratch) -> dict[str, int]:
        write(directory)
        scratch.folder.rename(store.root / "gone")
        (directory / "sub").mkdir(parents=True)  # as many a writer does
        (directory / "sub" / "c").write_text("c")
        return {}

    with pytest.raises(StoreWriteError, match="run again"):
        store.build(INPUTS, lose)
    assert not store.has("thing", "all")
    assert not store.build(INPUTS, write).reused


def test_a_reader_gives_nothing_back_to_a_condemned_attempt(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact = store.build(INPUTS, write)
    store.backend.delete(f"{artifact.prefix}/manifest.json")
    assert artifact.path and store.current("thing", "all").path
    assert not store.build(INPUTS, write).reused
