"""The guarded Dagster webserver, with metrics and pictures of its instance."""
