"""The guarded Dagster webserver, and metrics of its instance."""
