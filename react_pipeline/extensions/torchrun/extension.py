"""What torchrun adds: trainings in several processes."""

from __future__ import annotations

from react_pipeline.extension import Extension


class Torchrun(Extension):
    """How the asset `customized_checkpoint` trains."""

    def declare_assets(self) -> None:
        """Train in as many processes as are configured."""
        import react_pipeline.extensions.torchrun.assets.processes  # noqa: F401
