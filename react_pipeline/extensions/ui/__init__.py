"""The user interfaces of Dagster and MLflow as processes of this machine."""
