"""Configuration of retrieval: `retrieval:` of `pipeline.yaml` and of a domain.

Belongs here: its fields, their defaults and rules. Does not belong here: what is
done with them (`fusion`, `ranking`, `retrieve`).
"""

from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import AfterValidator, Field, model_validator

from react_pipeline.settings.training import Fraction, Section

Mode = Literal["t2t", "t2i", "i2i"]


def _each_once(modes: tuple[Mode, ...]) -> tuple[Mode, ...]:
    if again := sorted({mode for mode in modes if modes.count(mode) > 1}):
        raise ValueError(f"{', '.join(again)} listed more than once; name each mode once, the preferred one first")
    return modes


class Idle(NamedTuple):
    """A setting that does nothing: its `field`, the field `because` of which, and a sentence that says the way out."""

    field: str
    because: str
    message: str


class RetrievalConfig(Section):
    """How pairs are chosen for a domain. A setting that could do nothing beside the others is refused.

    Attributes:
        modes: `t2t` matches a prompt with captions, `t2i` with images, `i2i` a class's seed images with images; in this
            order of preference.
        fusion: How the hits of several modes become one order. `preference`: a hit of an earlier mode goes first;
            `filter`: the modes find, and the likeness of a pair's image to its class decides (`filter_by`); `rrf`:
            reciprocal rank fusion.
        filter_by: What `fusion: filter` compares an image with: the mean of the class's `prompts` or of its `seeds`.
        choose: The `nearest` pairs of each prompt, or `all` pairs of a corpus that was retrieved before, each for the
            class whose prompts its caption is nearest to; then neither `k_per_prompt` nor `max_per_class` counts.
        k_per_prompt: Hits per prompt (or seed image) and mode (REACT counts per prompt, not per class).
        search: How all prompts are searched: every stored vector is compared (`exact`), or those that the `index`
            proposes. `auto`: exact, unless by an estimate the index saves more than ten minutes.
        max_per_class: Cap per class after duplicates are gone; the best stay.
        max_pairs: Pairs in all; the classes with most pairs give theirs up first. Unset: no limit.
        balance: Where a pair goes that several classes want: to the class that it fits `best`, or (`even`) to the class
            that has fewest.
        min_per_class: A class with fewer pairs is starving.
        max_starving_fraction: Above this fraction of starving classes nothing is trained.
        min_similarity: Cosine floor per mode; `filter` is that of the likeness which `fusion: filter` compares.
        duplicate_similarity: A corpus image at least this similar (cosine) to one that was taken before it, for any
            class, is dropped; above 1: only images of equal bytes.
        near_duplicate_similarity: Corpus images at least this similar (cosine) to an evaluation image are removed.
        decontaminate: Whose labelled images are kept out: the domain's `own`, or those of `all` domains and of the
            data sets of ELEVATER that are there.
        max_text_fraction: Images of which more than this fraction is printed text are dropped. Unset: not looked for.
        shard_pairs: Pairs per collected training shard.
    """

    modes: Annotated[tuple[Mode, ...], AfterValidator(_each_once)] = Field(default=("t2t", "t2i"), min_length=1)
    fusion: Literal["preference", "filter", "rrf"] = "preference"
    filter_by: Literal["prompts", "seeds"] = "prompts"
    choose: Literal["nearest", "all"] = "nearest"
    k_per_prompt: int = Field(default=50, gt=0)
    search: Literal["auto", "index", "exact"] = "auto"
    max_per_class: int = Field(default=200, gt=0)
    max_pairs: int | None = Field(default=None, gt=0)
    balance: Literal["best", "even"] = "best"
    min_per_class: int = Field(default=1, ge=0)
    max_starving_fraction: Fraction = 0.25
    min_similarity: Mapping[Literal["t2t", "t2i", "i2i", "filter"], float] = {}
    duplicate_similarity: float = Field(default=1.01, gt=0, le=1.01)
    near_duplicate_similarity: float = Field(default=0.98, gt=0, le=1.01)
    decontaminate: Literal["own", "all"] = "own"
    max_text_fraction: Fraction | None = None
    shard_pairs: int = Field(default=1_000, gt=0)

    @model_validator(mode="after")
    def _every_setting_does_something(self) -> Self:
        if idle := self.idle():
            raise ValueError("; ".join(found.message for found in idle))
        return self

    def idle(self) -> list[Idle]:
        """Settings that do nothing beside the others, of a copy too whose fields came from several files."""
        found: list[Idle] = []
        used = {*self.modes, *(["filter"] if self.fusion == "filter" else [])}
        floors = {name: floor for name, floor in self.min_similarity.items() if name in used}
        rest = f"{{{', '.join(f'{name}: {floor:g}' for name, floor in floors.items())}}}"
        for name in [name for name in self.min_similarity if name not in floors]:
            field, because, fix = (
                ("fusion", self.fusion, "set `fusion: filter`")
                if name == "filter"
                else ("modes", f"[{', '.join(self.modes)}]", f"add {name} to `modes`")
            )
            message = f"`min_similarity.{name}` does nothing with `{field}: {because}`; {fix}, or write"
            found.append(Idle("min_similarity", field, f"{message} `min_similarity: {rest}`"))
        if self.choose == "all" and "t2t" not in self.modes:
            found.append(Idle("choose", "modes", "`choose: all` goes by captions; add t2t to `modes`"))
        if self.filter_by == "seeds" and self.fusion != "filter":
            message = f"`filter_by: seeds` does nothing with `fusion: {self.fusion}`; set `fusion: filter`, or write"
            found.append(Idle("filter_by", "fusion", f"{message} `filter_by: prompts`"))
        return found

    @property
    def uses_seeds(self) -> bool:
        """Whether seed images are searched or compared with."""
        return "i2i" in self.modes or (self.fusion == "filter" and self.filter_by == "seeds")
