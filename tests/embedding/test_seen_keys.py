from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from react_pipeline.embedding.seen_keys import SeenKeys

Shards = list[list[str]]


@settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    st.lists(
        st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=3), unique=True),
        max_size=6,
    )
)
def test_a_key_is_a_duplicate_in_every_shard_but_its_first(tmp_path: Path, shards: Shards) -> None:
    seen = SeenKeys(tmp_path / "keys.sqlite")
    first: dict[str, int] = {}
    for shard, keys in enumerate(shards):
        expected = {key for key in keys if first.setdefault(key, shard) != shard}
        assert seen.duplicates(shard, keys) == expected
        seen.add(shard, keys)
    seen.close()


def test_asking_for_duplicates_changes_nothing(tmp_path: Path) -> None:
    seen = SeenKeys(tmp_path / "keys.sqlite")
    seen.add(0, ["a"])
    for _ in range(2):
        assert seen.duplicates(1, ["a", "b"]) == {"a"}
    seen.close()


def test_keys_of_a_folder_are_its_own(tmp_path: Path) -> None:
    seen = SeenKeys(tmp_path / "keys.sqlite", [0, 10, 0, 10, 1])
    shards = [["a", "0/a"], ["a"], ["a", "b"], ["b"]]
    duplicates = [seen.enter(shard, keys) for shard, keys in enumerate(shards)]
    assert duplicates == [set(), set(), {"a"}, set()]
    assert seen.duplicates(4, ["a", "b", "0/a"]) == set()
    assert seen.duplicates(3, ["a", "0/a", "b"]) == {"a", "b"}


@pytest.mark.parametrize("left", [b"", b"no table at all"])
def test_a_new_register_is_empty_whatever_a_killed_run_left(tmp_path: Path, left: bytes) -> None:
    path = tmp_path / "keys.sqlite"
    path.write_bytes(left)
    seen = SeenKeys(path)
    assert not seen.duplicates(0, ["a"])
    seen.add(0, ["a"])
    seen.close()
    assert not path.exists()


def test_closing_while_another_thread_asks_harms_nothing(tmp_path: Path) -> None:
    seen = SeenKeys(tmp_path / "keys.sqlite")
    seen.add(0, [f"{number:06d}" for number in range(2_000)])
    started, ended = threading.Event(), []

    def ask() -> None:
        try:
            while True:
                assert seen.duplicates(1, ["000007", "new"]) == {"000007"}
                started.set()
        except ValueError as error:
            ended.append(str(error))

    asking = threading.Thread(target=ask)
    asking.start()
    assert started.wait(180)
    seen.close()
    asking.join(180)
    assert ended == ["the register of keys is closed"]
    assert not (tmp_path / "keys.sqlite").exists()
