"""The guarded Dagster webserver."""
