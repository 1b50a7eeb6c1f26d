"""What a build keeps is whole as soon as it has its name, and is written once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from react_pipeline.store import Scratch


def folder_of(text: str) -> object:
    def write(path: Path) -> None:
        path.mkdir()
        (path / "a").write_text(text)
        (path / "b").write_text(text)

    return write


def contents(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("[!.]*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_text() for path in files}


def test_what_is_kept_is_not_written_again(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    for text in ("first", "second"):
        assert scratch.keep("parts/file", lambda path, text=text: path.write_text(text)).is_file()
        assert scratch.keep("folder", folder_of(text)).is_dir()
    assert contents(tmp_path) == {"parts/file": "first", "folder/a": "first", "folder/b": "first"}


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        folder_of("half")(path)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Scratch(tmp_path).keep("folder", fail)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_of_two_that_keep_the_same_one_is_kept(tmp_path: Path, kind: str) -> None:
    scratch = Scratch(tmp_path)
    write = folder_of if kind == "folder" else lambda text: lambda path: path.write_text(text)

    def overtaken(path: Path) -> None:
        scratch.keep("kept", write("theirs"))
        write("ours")(path)

    scratch.keep("kept", overtaken)
    assert len(set(contents(tmp_path).values())) == 1
    assert [path.name for path in tmp_path.glob("[!.]*")] == ["kept"]


def test_a_scratch_goes_on_from_what_is_as_it_was_kept(tmp_path: Path) -> None:
    earlier, later = Scratch(tmp_path / "earlier"), Scratch(tmp_path / "later")
    for name in ("flipped", "gone", "parts/good"):
        earlier.keep(name, lambda path: path.write_text("kept"))
    earlier.keep("folder", folder_of("kept"))
    earlier.keep("folder with a cut file", folder_of("kept"))
    Scratch(earlier.folder / "inner").keep("part", lambda path: path.write_text("kept"))
    (earlier.folder / "never kept").write_text("by a process that was killed")
    with (earlier.folder / ".kept").open("a") as log:
        log.write('["a torn line"')
    (earlier.folder / "flipped").write_text("kepT")
    (earlier.folder / "gone").unlink()
    (earlier.folder / "folder with a cut file" / "b").write_text("ke")
    later.begin(earlier)
    whole = {"parts/good": "kept", "folder/a": "kept", "folder/b": "kept", "inner/part": "kept"}
    assert contents(later.folder) == whole
    again = Scratch(tmp_path / "again")
    again.begin(later)
    assert contents(again.folder) == whole


def test_what_goes_while_it_is_linked_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier, later = Scratch(tmp_path / "earlier"), Scratch(tmp_path / "later")
    earlier.keep("folder", folder_of("kept"))
    link = os.link

    def link_and_lose(source: Path, target: Path) -> None:
        link(source, target)
        (earlier.folder / "folder" / "b").unlink(missing_ok=True)

    monkeypatch.setattr(os, "link", link_and_lose)
    later.begin(earlier)
    assert contents(later.folder) == {}
    assert later.keep("folder", folder_of("again")).is_dir()


def test_a_kill_loses_nothing_that_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier, later = Scratch(tmp_path / "earlier"), Scratch(tmp_path / "later")
    rename = Path.rename

    def killed(path: Path, target: Path) -> None:
        rename(path, target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", killed)
        earlier.keep("part", folder_of("kept"))
    later.begin(earlier)
    assert contents(later.folder) == {"part/a": "kept", "part/b": "kept"}
