"""Reading pairs shard by shard, ahead of what is encoded."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from support.drawings import pair, write_shard
from torch import Tensor

from react_pipeline.corpus.kinds.webdataset import Webdataset
from react_pipeline.corpus.shards import Member
from react_pipeline.embedding.embedded_shards import EmbeddedShard
from react_pipeline.embedding.inference import PairDataset, read_shards
from react_pipeline.embedding.seen_keys import SeenKeys
from react_pipeline.store.errors import CorpusError

CORPUS = Webdataset(shards=("*.tar",))


def to_tensor(image: Image.Image) -> Tensor:
    return torch.tensor(image.resize((1, 1)).getpixel((0, 0)), dtype=torch.uint8).view(3, 1, 1)


def tokenizer(texts: list[str]) -> Tensor:
    return torch.tensor([[len(text)] for text in texts])


@pytest.fixture
def shards(tmp_path: Path) -> tuple[list[Path], list[EmbeddedShard]]:
    """Shards with 0, 3, 0, 0, 5, 1 and 0 samples of their own; the others are
    duplicates.
    """
    paths, found, count = [], [], 0
    seen = SeenKeys(tmp_path / "keys.sqlite")
    for number, size in enumerate((0, 3, 0, 0, 5, 1, 0)):
        samples = {f"key{count + n}": pair("circle", "red", count + n) for n in range(size)}
        paths.append(
            write_shard(tmp_path / f"{number}.tar", {**samples, "again": pair("cross", "blue", 0)})
        )
        shard = EmbeddedShard(number, "")
        if number == 0:
            seen.add(-1, ["again"])
        shard.read_headers(paths, seen.enter)
        found.append(shard)
        count += size
    seen.close()
    return paths, found


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_each_shard_gets_its_own_batches_in_order(
    shards: tuple[list[Path], list[EmbeddedShard]], workers: int, batch_size: int
) -> None:
    paths, expected = shards
    dataset = PairDataset(paths, CORPUS, to_tensor, tokenizer)
    read = []
    for shard, reader in read_shards(iter(expected), dataset, batch_size, workers):
        batches = list(reader)
        assert all(
            1 <= len(batch["image_tensor"]) == len(batch["text_tokens"]) <= batch_size
            for batch in batches
        )
        read.append((shard.number, [key for batch in batches for key in batch["image_filename"]]))
    assert read == [(shard.number, [sample.key for sample in shard.samples]) for shard in expected]
    assert [len(keys) for _, keys in read] == [0, 3, 0, 0, 5, 1, 0]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_short_shard_is_one_clear_error_from_a_worker_too(
    shards: tuple[list[Path], list[EmbeddedShard]], workers: int
) -> None:
    paths, (_, shard, *_) = shards
    for sample in (sample for sample in shard.samples[:1]):
        sample.members["png"] = Member(10**6, 100)
    dataset = PairDataset(paths, CORPUS, to_tensor, tokenizer)
    with pytest.raises(CorpusError) as caught:
        for _, reader in read_shards(iter([shard]), dataset, 2, workers):
            list(reader)
    assert str(caught.value) == f"{paths[1]}: ends within a member; materialize `corpus` again"


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_later_shards_headers_reaches_the_caller(
    shards: tuple[list[Path], list[EmbeddedShard]], workers: int
) -> None:
    paths, expected = shards

    def broken() -> Iterator[EmbeddedShard]:
        yield from expected[:2]
        raise CorpusError("the third shard is no tar")

    dataset = PairDataset(paths, CORPUS, to_tensor, tokenizer)
    with pytest.raises(CorpusError, match="the third shard is no tar"):
        for _, reader in read_shards(broken(), dataset, 2, workers):
            list(reader)


def test_giving_up_waits_for_nothing_that_is_read_ahead(
    shards: tuple[list[Path], list[EmbeddedShard]],
) -> None:
    paths, expected = shards
    given_up, ended = threading.Event(), threading.Event()

    def slow() -> Iterator[EmbeddedShard]:
        yield expected[1]
        if given_up.wait(20):
            ended.set()

    dataset = PairDataset(paths, CORPUS, to_tensor, tokenizer)
    reading = read_shards(slow(), dataset, 2, 0)
    next(reading)
    reading.close()
    given_up.set()
    assert ended.wait(20)
