"""What Spark adds: the cluster `spark`."""

from __future__ import annotations

from collections.abc import Mapping

from react_pipeline.extension import Extension, OpenCluster
from react_pipeline.installation import install_command


class Spark(Extension):
    """Work as tasks of a cluster."""

    def clusters(self) -> Mapping[str, OpenCluster]:
        """`spark`."""
        from react_pipeline.extensions.spark.spark import tasks_in_session

        return {"spark": tasks_in_session}

    def installs(self) -> Mapping[str, str]:
        """PySpark."""
        return {"pyspark": install_command("spark")}
