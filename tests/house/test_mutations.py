"""Every row of the table of guards fits the source and names tests that exist; running it takes
minutes.
"""

from __future__ import annotations

import re

import mutation_sample
import pytest
from mutations import GUARDS, ROOT, Guard


@pytest.mark.parametrize("row", GUARDS, ids=lambda row: f"{row.file}:{row.source.strip()[:40]}")
def test_a_row_fits_the_source(row: Guard) -> None:
    text = (ROOT / row.file).read_text(encoding="utf-8")
    assert text.count(row.source) == 1 and row.replacement != row.source
    file, _, name = row.test.partition("::")
    assert re.search(
        rf"^def {name or 'test_'}",
        (ROOT / "tests" / file).read_text(encoding="utf-8"),
        re.MULTILINE,
    )


def test_the_sample_finds_mutants_and_their_tests() -> None:
    file = "react_pipeline/store/store.py"
    assert len([*mutation_sample.mutants_of(ROOT / file)]) > 5
    assert "faults/test_store.py" in mutation_sample.tests_of(file)
