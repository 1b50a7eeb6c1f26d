"""How many captions say each name."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pytest
from support.upkeep import edit_domain

from react_pipeline.commands.cli import main
from react_pipeline.embedding.vectors import read_metadata
from react_pipeline.extensions.names import name_counts
from react_pipeline.extensions.names.name_counts import (
    _counts,
    count_names,
    domain_names,
    said_in,
    split_words,
)
from react_pipeline.project.project import Project


@pytest.mark.parametrize(
    ("names", "captions"),
    [
        # Whole words count, once a caption, in any case.
        (
            {"crane": 3, "Émeu": 1},
            ("a CRANE", "Crane, crane!", "(crane)", "cranes", "crâne", "an émeu"),
        ),
        # The words of a name follow one another.
        (
            {"New York City": 2},
            ("in New York-City", "york city", "new", "York city, new york city", "city"),
        ),
        # A name within a longer one does not count.
        (
            {"tiger": 2, "tiger shark": 2, "shark": 1, "great white shark": 1, "white": 0},
            (
                "a tiger shark",
                "tiger shark and tiger",
                "a tiger, a great white shark",
                "great shark",
            ),
        ),
        # Of names that overlap both count.
        ({"red fire": 1, "fire engine": 1, "fire": 0}, ("red fire engine",)),
        ({"crane": 0, "tower crane": 0, "&": 0}, ()),
        ({"crane": 0, "&": 0}, (None, "")),
        ({"&": 0}, ("?",)),
        ({"tiger": 2, "TIGER": 2}, ("Tiger, tiger!", None, "a tiger")),
    ],
    ids=str,
)
def test_a_caption_says_a_name(names: dict[str, int], captions: tuple[str | None, ...]) -> None:
    _, said = said_in(split_words(pa.array(captions, pa.string())), list(names))
    assert _counts(said, list(names)).tolist() == list(names.values())


def test_a_retrieved_set_keeps_the_counts_of_its_names(
    retrieved_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    embeddings = retrieved_project.store.current("corpus_embeddings", "all")
    captions = read_metadata(embeddings, ["caption"])["caption"].fillna("")
    monkeypatch.setattr(name_counts, "_TASK_ROWS", 7)
    monkeypatch.setattr(name_counts, "_BATCH_ROWS", 3)
    table = domain_names(retrieved_project, "shapes")
    assert table["name"].tolist()[:2] == ["circle", "disc"]
    assert table["class"].tolist()[:2] == ["circle", "circle"]
    expected = [captions.str.contains(rf"(?i)\b{name}\b").sum() for name in table["name"]]
    assert table["captions"].tolist() == expected and sum(expected) > 0
    artifact = retrieved_project.store.current("retrieved_set", "shapes")
    assert pd.read_parquet(artifact.file("names.parquet")).equals(table)
    shown = pd.read_parquet(artifact.file("classes.parquet"))["names"][0]
    assert shown == f"circle {expected[0]}; disc {expected[1]}"
    assert shown in artifact.file("report.md").read_text()


def test_embeddings_without_a_caption_column_say_no_name(indexed_project: Project) -> None:
    embeddings = indexed_project.store.current("corpus_embeddings", "all")
    folder = embeddings.path
    for path in (folder / "metadata").iterdir():
        pd.read_parquet(path).drop(columns="caption").to_parquet(path)
    embeddings.remember()
    table = count_names(indexed_project.domain("shapes"), embeddings)
    assert table["captions"].tolist() == [0] * len(table)


def test_a_more_frequent_synonym_is_named(
    indexed_project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = [{"name": "disc", "synonyms": ["circle"]}, "square"]
    edit_domain(indexed_project, "shapes", classes=classes)
    with pytest.raises(SystemExit) as stop:
        main(["domains", "names", "shapes", "--config", str(indexed_project.path)])
    shown = capsys.readouterr().out.splitlines()
    assert not stop.value.code and shown[-1] == "disc: circle is more frequent"
    assert shown[0].split() == ["class", "name", "captions"]
