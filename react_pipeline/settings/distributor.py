"""Configuration of the distributor: `distributor:` of `pipeline.yaml`.

Belongs here: its fields, their defaults and rules. Does not belong here: running on a cluster
(`project.spread`).
"""

import re
from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from react_pipeline.settings.section import Section

_SECRET = re.compile(r"secret|token|password|access\.?key|credential", re.IGNORECASE)


class DistributorConfig(Section):
    """Where embedding, index building and downloads run. It changes no result, so it is part of no
    fingerprint.
    """

    kind: Literal["local", "spark"] = "local"
    master: str | None = Field(
        default=None, pattern=r"^(local(-cluster)?(\[[0-9*, ]+\])?|yarn|(spark|k8s|mesos)://\S+)$"
    )
    conf: Mapping[str, str] = {}

    @field_validator("conf")
    @classmethod
    def _names_are_sparks(cls, conf: Mapping[str, str]) -> Mapping[str, str]:
        for name in conf:
            if not name.startswith("spark."):
                raise ValueError(f"`{name}`: properties of Spark begin with `spark.`")
            if name == "spark.master":
                raise ValueError(f"`{name}`: use `master`")
            if _SECRET.search(name):
                raise ValueError(
                    f"`{name}` looks like a secret, which a configuration file must not hold"
                )
        return conf

    @model_validator(mode="after")
    def _fields_match_kind(self) -> Self:
        if self.kind == "local" and (self.master or self.conf):
            raise ValueError(
                "`master` and `conf` do nothing for kind `local`: remove them, or set kind `spark`"
            )
        return self
