from __future__ import annotations

import errno
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.things import inputs, of_a_folder, publish, write

from react_pipeline.store import (
    CorruptArtifact,
    InputError,
    Inputs,
    MissingArtifact,
    Scratch,
    Store,
    StoreWriteError,
    durable,
    sha256_of,
)


def test_a_build_publishes_files_manifest_and_pointer(store: Store) -> None:
    artifact = publish(store)
    assert artifact.file("sub/data").read_text() == "data"
    assert artifact.counts == {"rows": 1}
    manifest = json.loads(store.backend.read(f"{artifact.place}/manifest.json"))
    assert manifest["files"]["sub/data"]["bytes"] == 4
    assert artifact.address == f"{store.address('thing', 'all')}/{artifact.fingerprint}"
    assert store.current("thing", "all") == artifact
    assert store.keys("thing") == ["all"]
    assert manifest == artifact.manifest
    assert not list(store.root.glob(".scratch/*")) + list(store.root.glob(".temporary/*"))


def test_a_fingerprint_follows_config_parents_and_version(store: Store) -> None:
    parent = publish(store, 7, "parent")
    other = publish(store, 8, "parent")
    variants = [
        inputs(1),
        inputs(2),
        Inputs("thing", "all", {"value": 1}, {}, "2"),
        Inputs("thing", "all", {"value": 1}, {}, "1", content=["a"]),
        inputs(1, parent=parent),
        inputs(1, parent=other),
        inputs(1, key="other"),
    ]
    assert len({variant.fingerprint for variant in variants}) == len(variants)


def noted(monkeypatch: pytest.MonkeyPatch, module: str = "durable") -> list[str]:
    """Forget what this process verified; the list gets the name of every file that is hashed from
    here on.
    """
    hashed: list[str] = []

    def hash_and_note(path: Path) -> str:
        hashed.append(path.name)
        return sha256_of(path)

    durable._known.cache_clear()
    monkeypatch.setattr(f"react_pipeline.store.{module}.sha256_of", hash_and_note)
    return hashed


def test_verified_files_are_not_hashed_again_elsewhere(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = store.build(inputs(key="a/b"), write)
    hashed = noted(monkeypatch)
    opened = store.current("thing", "a/b")
    assert opened == built and opened.file("sub/data").read_text() == "data"
    assert hashed == []
    (opened.path / "stray.txt").write_text("x")
    with pytest.raises(CorruptArtifact, match="stray"):
        opened.file("stray.txt")


def test_a_file_of_the_scratch_is_hashed_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = noted(monkeypatch, "scratch")

    def link(directory: Path, scratch: Scratch) -> dict[str, int]:
        kept = scratch.keep("part", lambda path: path.write_text("part"))
        os.link(kept, directory / "part")
        return {}

    assert store.build(inputs(), link).file("part").read_text() == "part"
    assert len([name for name in hashed if name.endswith("part")]) == 1


@of_a_folder
def test_a_rewritten_file_is_refused_despite_old_time_and_size(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = publish(store).file("sub/data")
    before = path.stat()
    path.write_text("atad")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    noted(monkeypatch)
    with pytest.raises(CorruptArtifact, match="rematerialize `thing`"):
        assert store.current("thing", "all").path


@of_a_folder
def test_a_copy_of_a_store_is_verified_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store)
    shutil.copytree(store.root, tmp_path / "copy", copy_function=shutil.copy2)
    hashed = noted(monkeypatch)
    copied = Store(tmp_path / "copy")
    assert copied.current("thing", "all").path
    assert sorted(hashed) == ["data", "more"]
    noted(monkeypatch)
    assert copied.current("thing", "all").path
    assert sorted(hashed) == ["data", "more"]


@of_a_folder
def test_a_store_that_may_only_be_read_is_hashed_once_a_process(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store)
    (memory,) = store.root.glob("thing/all/*/*/.digests.jsonl")
    memory.unlink()
    memory.mkdir()
    hashed = noted(monkeypatch)
    for _ in range(2):
        assert store.current("thing", "all").path
    assert sorted(hashed) == ["data", "more"]


@of_a_folder
@pytest.mark.parametrize("is_readable", [True, False])
def test_verifying_the_store_names_what_a_disk_changed(
    store: Store, monkeypatch: pytest.MonkeyPatch, is_readable: bool
) -> None:  # 50
    bad, good = (publish(store, stage=stage) for stage in ("bad", "good"))

    # As if the bytes had changed with no write: what is remembered stays valid.
    def changed(path: Path) -> str:
        if "bad" in path.parts and not is_readable:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return "0" * 64 if "bad" in path.parts else sha256_of(path)

    monkeypatch.setattr("react_pipeline.store.folder.sha256_of", changed)
    assert store.current("bad", "all").path == bad.path
    found = dict(store.verify())
    assert found.keys() == {good.address, bad.address}
    assert found[good.address] is None
    assert "rematerialize `bad`" in str(found[bad.address])
    assert publish(store, stage="bad").reused != is_readable


@of_a_folder
@pytest.mark.parametrize("text", ["", "[]", "null", '{"format": 2}', "[" * 100_000])
def test_a_store_of_another_format_is_refused(store: Store, text: str) -> None:  # 33, 56
    store.root.mkdir(parents=True)
    (store.root / "store.json").write_text(text)
    for use in (lambda: Store(store.root), lambda: publish(store)):
        with pytest.raises(InputError, match=str(store.root)):
            use()


def test_of_many_callers_one_creates_an_object(store: Store) -> None:
    texts = [f"{number} ".encode() * 1_000 for number in range(8)]

    def create(text: bytes) -> bytes:
        store.backend.create("after", text)
        return store.backend.read("after")

    with ThreadPoolExecutor(8) as pool:
        (winner,) = {*pool.map(create, texts)}
    assert winner in texts, "everybody reads the whole text"


@pytest.mark.parametrize("foreign", [False, True])
def test_a_build_whose_scratch_is_gone_says_so(store: Store, foreign: bool) -> None:
    def lose(directory: Path, scratch: Scratch) -> dict[str, int]:
        write(directory, None)
        scratch.folder.rename(store.root / "gone")
        (directory / "sub").mkdir(parents=True)  # as many a writer does
        (directory / "sub" / "c").write_text("c")
        if foreign:
            raise RuntimeError("Parent directory does not exist")  # as torch says it
        return {}

    with pytest.raises(StoreWriteError, match="run again"):
        store.build(inputs(), lose)
    assert not store.has("thing", "all")
    assert not publish(store).reused


def test_a_build_whose_scratch_goes_as_it_begins_says_so(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(path: Path) -> None:
        shutil.rmtree(path.parent)
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "touch", lose)
    with pytest.raises(StoreWriteError, match="run again"):
        publish(store)


def test_a_reader_gives_nothing_back_to_a_condemned_attempt(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact = publish(store)
    store.backend.delete(f"{artifact.prefix}/manifest.json")
    assert artifact.path and store.current("thing", "all").path
    assert not publish(store).reused


def test_an_artifact_that_was_pruned_under_its_reader_is_missing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact = publish(store)
    for name in (f"{artifact.place}/manifest.json", f"{artifact.prefix}/sub/data"):
        store.backend.delete(name)
    with pytest.raises(MissingArtifact, match="materialize"):
        artifact.file("sub/data")
