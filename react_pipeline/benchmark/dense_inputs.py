"""What detection and segmentation are measured on: the configured sets that are there, and other files that are read.

Does not belong here: reading a set (`react_pipeline.labelled`), what is measured (`dense_results`).
"""

from pathlib import Path

from react_pipeline.labelled import DenseImages, Unavailable, lines_of, read_dense_set
from react_pipeline.settings import DenseConfig
from react_pipeline.store import InputError, sha256_of


def read_dense_sets(dense: DenseConfig, slug: str) -> tuple[list[DenseImages], dict[str, str]]:
    """The configured sets that are there, and why others are not.

    Raises:
        InputError: Listing every set that is there and wrong.
    """
    found, missing, problems = [], {}, []
    for entry in dense.sets(slug):
        try:
            found.append(read_dense_set(dense.root or Path(), entry))
        except Unavailable as error:
            missing[entry.name] = error.reason
        except InputError as error:
            problems.append(f"{entry.name}: {error}")
    if problems:
        raise InputError(
            f"{dense.root}: {len(problems)} sets cannot be used; fix or remove them, or leave them out of `dense`\n"
            f"{lines_of(problems)}"
        )
    return found, missing


def digests_of_files(dense: DenseConfig, found: list[DenseImages]) -> dict[str, str]:
    """Of what measuring reads beside the sets."""
    files = {"rpn": dense.rpn_checkpoint if "rpn" in dense.boxes else None}
    if dense.student_images:
        files["student"] = dense.student_backbone
    for images in found if "file" in dense.boxes else ():
        if images.entry.task == "detection":
            name = images.entry.name
            files[f"boxes of {name}"] = (dense.root or Path()) / dense.boxes_file.replace("{dataset}", name)
    try:
        return {name: sha256_of(path) for name, path in files.items() if path is not None}
    except OSError as error:
        raise InputError(f"dense: {error.filename}: cannot be read ({error.strerror})") from error
