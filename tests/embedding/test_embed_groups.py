from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from react_pipeline.embedding.groups import cut_into_groups


@given(
    st.integers(0, 40), st.integers(1, 5), st.dictionaries(st.integers(0, 39), st.integers(1, 6))
)
def test_groups_hold_every_shard_once_in_order(
    shards: int, size: int, matches: dict[int, int]
) -> None:
    def match(start: int) -> int:
        return min(matches.get(start, 0), shards - start)

    groups = cut_into_groups(["x"] * shards, size, match)
    assert [shard for start, end in groups for shard in range(start, end)] == list(range(shards))
    for start, end in groups:
        assert end - start == match(start) or end - start <= size


def test_without_earlier_groups_all_but_the_last_are_full() -> None:
    assert cut_into_groups(["x"] * 5, 2, lambda _: 0) == [(0, 2), (2, 4), (4, 5)]


def test_a_new_group_ends_where_an_earlier_one_begins() -> None:
    assert cut_into_groups(["x"] * 6, 4, lambda start: 3 if start == 2 else 0) == [
        (0, 2),
        (2, 5),
        (5, 6),
    ]
