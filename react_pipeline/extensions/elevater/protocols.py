"""What the protocols of extensions share: the model of a method, the data that are there, files
that a user wrote in a known form, the base beside every method.

Does not belong here: reading a data set, what is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd
from pydantic import TypeAdapter, ValidationError

from react_pipeline.labelled import Unavailable, list_problems
from react_pipeline.lineage import gather, resolve
from react_pipeline.pages import escaped, markdown_table
from react_pipeline.project import Project
from react_pipeline.stage import BASE_CHECKPOINT, CUSTOMIZED_CHECKPOINT, STAGES
from react_pipeline.store import (
    Artifact,
    InputError,
    MissingArtifact,
    Scratch,
    read_json_bounded,
)

if TYPE_CHECKING:
    from react_pipeline.clip import Clip

VALUES = ["base", "value", "delta"]
"""The base's figure, the method's, and the difference, as fractions."""

Place = TypeVar("Place")
Data = TypeVar("Data")
Compare = Callable[[pd.DataFrame, Mapping[str, pd.DataFrame]], pd.DataFrame]
"""Maps the base's figures and those of methods to a table with `VALUES`."""


def require_encoder(project: Project, method: str) -> None:
    """Refuse a method whose checkpoint holds no model.

    Raises:
        InputError: If it holds a head alone.
    """
    if not project.method(method).has_model:
        raise InputError(f"{method}: a head is used on the base's own features; measure `base`")


def load_model(project: Project, parents: Mapping[str, Artifact]) -> Clip:
    """Load the model of the checkpoint among the parents of a step, on the project's device."""
    from react_pipeline.clip import choose_device, load

    checkpoint = parents.get(BASE_CHECKPOINT) or parents[CUSTOMIZED_CHECKPOINT]
    return load(checkpoint.path, choose_device(project.config.device))


def read_form(path: Path, form: Any, name: str) -> Any:
    """Read a JSON file as a pydantic type.

    Args:
        name: What the form is called in messages.

    Raises:
        Unavailable: If there is no such file.
        InputError: If it cannot be read, or naming the first field that is wrong.
    """
    try:
        return TypeAdapter(form).validate_python(read_json_bounded(path))
    except FileNotFoundError as error:
        raise Unavailable(f"{path} is missing") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = [".".join(map(str, first["loc"])), first["msg"]]
        raise InputError(f"{path}: is not {name}: {': '.join(filter(None, place))}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: is not {name}: {error}") from error


def read_all(
    root: Path | None,
    section: str,
    places: Mapping[str, Place],
    read: Callable[[Path, Place], Data],
) -> tuple[dict[str, Data], dict[str, str]]:
    """Read the data that are there, and return why others are not.

    Args:
        section: Section of pipeline.yaml that has the root.
        places: By name, what `read` is called with in addition to the root.

    Raises:
        InputError: If there is no root, or listing everything that is there and wrong.
    """
    if root is None or not root.is_dir():
        wrong = "is not set" if root is None else f"there is no folder {root}"
        raise InputError(f"{section}.root: {wrong}; look at the data with `{section} check`")
    contents = {}
    missing = {}
    problems = []
    for name, place in places.items():
        try:
            contents[name] = read(root, place)
        except Unavailable as error:
            missing[name] = error.reason
        except InputError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise InputError(
            f"{root}: {len(problems)} of {len(places)} cannot be used; fix or remove them, or "
            f"leave them out of `{section}`\n{list_problems(problems)}"
        )
    return contents, missing


def contradictions(rows: pd.DataFrame) -> int:
    """Count rows of results with both a value and a reason or neither, with a value of no image or
    one that is not a fraction.
    """
    is_figure = (rows["n"] > 0) & rows["value"].between(0, 1) & rows["unavailable"].isna()
    is_missing = rows["value"].isna() & rows["unavailable"].notna()
    return int((~is_figure & ~is_missing).sum())


def publish_comparison(
    project: Project,
    stage: str,
    slug: str,
    file: str,
    compare: Compare,
    count: Callable[[pd.DataFrame], dict[str, Any]],
) -> Artifact:
    """Publish the base with every method of a domain that has a fresh result.

    Files: `table.parquet`, `table.csv`, `table.md`.

    Args:
        file: The table in each result that is compared.
        count: Further counts of the compared table.

    Raises:
        MissingArtifact: If the base has no fresh result, or no method has.
    """
    results, skipped = gather(project, stage, slug)
    if "base" not in results or len(results) == 1:
        without = "no method" if "base" in results else "the base"
        reasons = "".join(f"; {method}: {reason}" for method, reason in skipped.items())
        (gathered,) = STAGES[stage].gathers
        raise MissingArtifact(
            f"{slug}: {without} has a result to compare{reasons}; materialize `{gathered}`",
            (stage, slug),
        )
    inputs = resolve(project, stage, slug, parents=results, content={"skipped": skipped})

    def write(directory: Path, _: Scratch) -> dict[str, Any]:
        tables = {name: pd.read_parquet(result.file(file)) for name, result in results.items()}
        table = compare(tables.pop("base"), tables)
        table.to_parquet(directory / "table.parquet", index=False)
        table.to_csv(directory / "table.csv", index=False)
        notes = "".join(f"\n- {name}: {escaped(reason)}" for name, reason in skipped.items())
        text = f"{_to_markdown(table)}{notes}\n"
        (directory / "table.md").write_text(text, encoding="utf-8")
        return {"methods": list(tables), "skipped": skipped, **count(table)}

    return project.store.build(inputs, write)


def _to_markdown(table: pd.DataFrame) -> str:
    rows = table.astype({"n": "Int64"}).astype(object)
    for name, form in zip(VALUES, ("{:.1%}", "{:.1%}", "{:+.1%}"), strict=True):
        rows[name] = table[name].map(form.format, na_action="ignore")
    return markdown_table(list(rows), rows.where(rows.notna(), None).to_numpy().tolist())


def compare_figures(
    base: pd.DataFrame, methods: Mapping[str, pd.DataFrame], place: Sequence[str]
) -> pd.DataFrame:
    """Set each method's figures next to the base's. A figure counts only if both sides have it, of
    the same images.

    Args:
        base: Columns `place`, `value`, `n`, `images` (digest of what was measured) and `status`
            (`ok`, or why there is no value); the methods' tables have the same.
        place: What names a figure.

    Returns:
        For each method a row for every figure that either side has: the columns of `base`, with
        `VALUES`, which are there only where `status` is `ok`.
    """
    keys = list(place)
    parts = [_joined(base, table, keys).assign(method=method) for method, table in methods.items()]
    return pd.concat(parts, ignore_index=True)


def _joined(base: pd.DataFrame, mine: pd.DataFrame, place: list[str]) -> pd.DataFrame:
    places = pd.concat([mine[place], base[place]]).drop_duplicates()
    joined = places.merge(base, "left", place).merge(mine, "left", place, suffixes=("_base", ""))
    status = pd.Series("ok", joined.index)
    status[joined["images_base"] != joined["images"]] = (
        "measured on other images than the base; rematerialize both"
    )
    for side, column in (("the method", "status"), ("the base", "status_base")):
        reasons = joined[column]
        status[reasons != "ok"] = f"not measured of {side}: " + reasons
        status[reasons.isna()] = f"{side} was not asked for it"
    values = {"base": joined["value_base"], "value": joined["value"], "n": joined["n"]}
    values["delta"] = values["value"] - values["base"]
    measured = {name: column.where(status == "ok") for name, column in values.items()}
    return joined.assign(**measured, status=status)
