"""What torchrun adds: trainings in several processes."""

from __future__ import annotations

from react_pipeline.extension import Extension


class Torchrun(Extension):
    """The body of the asset `customized_checkpoint`."""

    def declare_assets(self) -> None:
        """The body."""
        import react_pipeline.extensions.torchrun.assets.processes  # noqa: F401
