"""The user interfaces: Dagster's webserver behind a guard, and it and MLflow as processes of this
machine.
"""
