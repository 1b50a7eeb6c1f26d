"""What Kubernetes adds: packages. The run coordinator is named by `dagster.yaml`."""

from __future__ import annotations

from collections.abc import Mapping

from react_pipeline.extension import Extension
from react_pipeline.installation import install_command


class Kubernetes(Extension):
    """Runs as jobs of a cluster."""

    def installs(self) -> Mapping[str, str]:
        """Dagster's libraries for jobs, and for what runs print."""
        return dict.fromkeys(("dagster_k8s", "dagster_aws"), install_command("kubernetes"))
