"""Notes of the store: of several callers that create one, one does."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from react_pipeline.store.store import Store


def test_of_many_callers_one_creates_a_note(tmp_path: Path) -> None:
    texts = [f"{number} " * 1_000 for number in range(16)]

    def create(text: str) -> tuple[bool, str | None]:
        store = Store(tmp_path)
        created = store.create_note("after", text)
        return created, store.read_note("after")

    with ThreadPoolExecutor(16) as pool:
        answers = [*pool.map(create, texts)]
    winners = [text for text, (created, _) in zip(texts, answers, strict=True) if created]
    assert len(winners) == 1
    assert {read for _, read in answers} == {*winners}, "everybody reads the whole text"
