"""What the embedded demo adds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    from react_pipeline.labelled import LabelledKind


class Demo(Extension):
    """A small real corpus, base model and labelled images, made of installed packages."""

    def labelled_kinds(self) -> Iterable[LabelledKind]:
        """Drawings of emoji."""
        from react_pipeline.extensions.demo.labelled_kind import Drawings

        return (Drawings(),)
