from __future__ import annotations

import pytest

from react_pipeline.settings.addresses import check_shard_name, expand


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("{08..11}.tar", ["08.tar", "09.tar", "10.tar", "11.tar"]),
        ("{train,extra}/{0..1}.tar", ["train/0.tar", "train/1.tar", "extra/0.tar", "extra/1.tar"]),
    ],
)
def test_ranges_and_lists_mean_names_in_their_order(pattern: str, names: list[str]) -> None:
    assert expand(pattern) == names


@pytest.mark.parametrize(
    "pattern",
    ["{a", "{a}", "{}", "{0..9}" * 7, "{0..99999999999}", "{0..99999999999..1}"],
)
def test_what_is_no_range_or_means_too_much_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="braces|more than"):
        expand(pattern)


NO_SHARDS = [
    " ",
    "data/a\x7f.tar",
    "https://h:port/a.tar",
    "https://h/a b.tar",
    "s3://bucket",
    "s3://*/a.tar",
    "s3://bucket-{0..1}/a.tar",
    "pipe:cat a.tar",
    "pipe://cat a.tar",
    "gs:x",
    "file:a.tar",
    "ftp://host/a.tar",
    "simplecache::s3://bucket/a.tar",
]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("s3://user:hush@h/a.tar", "'s3://…@h/a.tar': only local"),
        ("https://h/a.tar?X-Amz-Signature=hush", "only local"),
        ("https://h/*.tar", "lists no files"),
        ("s3://bucket/a**/a.tar", "whole folders"),
        *((name, "only local") for name in NO_SHARDS),
    ],
)
def test_a_name_that_no_reader_takes_is_refused(name: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refused:
        check_shard_name(name)
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize(
    "name", ["with blank/a{.tar", "gs://b/c/{train,extra}/*.tar", "https://h:81/%20@a.tar"]
)
def test_plain_paths_and_urls_are_shards(name: str) -> None:
    check_shard_name(name)
