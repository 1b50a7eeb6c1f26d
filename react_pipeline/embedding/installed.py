"""clip-retrieval, installed next to this package: its metadata caps numpy, pyarrow and open_clip,
its code does not.
"""

from importlib.util import find_spec

from react_pipeline.store import InputError

INSTALL_CLIP_RETRIEVAL = "pip install --no-deps clip-retrieval==2.45.0 all-clip==1.3.0"


def require_clip_retrieval() -> None:
    """Refuse to go on without clip-retrieval.

    Raises:
        InputError: With the command that installs it.
    """
    if find_spec("clip_retrieval") is None or find_spec("all_clip") is None:
        raise InputError(f"clip-retrieval is not installed; run: {INSTALL_CLIP_RETRIEVAL}")
