"""Settings: one module for each section of `pipeline.yaml` and of a domain file."""
