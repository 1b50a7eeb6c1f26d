"""Dagster assets with MLflow runs, models and a comparison, in the smallest form.

Run `python examples/dagster_mlflow.py`, or `dagster dev -f examples/dagster_mlflow.py`, and
`mlflow ui --backend-store-uri sqlite:///mlflow.db` beside it. Nothing of react_pipeline is needed.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.models import infer_signature
from sklearn.datasets import load_wine
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

ESTIMATORS = {
    "bayes": GaussianNB(),
    "logistic": make_pipeline(StandardScaler(), LogisticRegression()),
    "control": DummyClassifier(),  # what every method is held against
}
METHODS = dg.StaticPartitionsDefinition([*ESTIMATORS])


class Experiment(dg.ConfigurableResource):
    """An MLflow experiment with a run for each materialization."""

    tracking_uri: str = "sqlite:///mlflow.db"
    name: str = "wine"

    @contextmanager
    def run(self, context: dg.AssetExecutionContext, name: str) -> Iterator[mlflow.ActiveRun]:
        """Open a run that names its asset and its Dagster run; Dagster links back to it."""
        mlflow.set_tracking_uri(self.tracking_uri)
        mlflow.set_experiment(self.name)
        tags = {"asset": context.asset_key.path[-1], "dagster.run_id": context.run_id}
        with mlflow.start_run(run_name=name, tags=tags) as run:
            yield run
        page = f"/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
        context.add_output_metadata({"mlflow": page})


@dg.asset(kinds={"pandas"})
def wines() -> pd.DataFrame:
    """Labelled samples: the features of a wine, and its `target`."""
    return load_wine(as_frame=True).frame


@dg.asset(partitions_def=METHODS, kinds={"sklearn", "mlflow"})
def model(context: dg.AssetExecutionContext, wines: pd.DataFrame, experiment: Experiment) -> None:
    """One method, trained on every other sample and measured on the rest.

    All methods log the same metrics under the same names, so that MLflow compares their runs.
    """
    method = context.partition_key
    train, test = wines[::2], wines[1::2]
    features = train.drop(columns="target")
    with experiment.run(context, method):
        for part, use in ((train, "training"), (test, "evaluation")):
            mlflow.log_input(mlflow.data.from_pandas(part, name="wines", targets="target"), use)
        fitted = ESTIMATORS[method].fit(features, train["target"])
        predicted = fitted.predict(test.drop(columns="target"))
        mlflow.log_param("method", method)
        mlflow.log_metric("top1", float((predicted == test["target"]).mean()))
        mlflow.log_table(test.assign(predicted=predicted), "predictions.json")
        signature = infer_signature(features, predicted)
        mlflow.sklearn.log_model(fitted, name=method, signature=signature)


@dg.asset(deps=[dg.AssetDep(model, partition_mapping=dg.AllPartitionMapping())], kinds={"mlflow"})
def comparison(context: dg.AssetExecutionContext, experiment: Experiment) -> None:
    """The latest run of each method beside the control; the best method becomes `@champion`."""
    with experiment.run(context, "comparison"):
        runs = mlflow.search_runs(filter_string="tags.asset = 'model' and status = 'FINISHED'")
        table = runs.drop_duplicates("params.method").set_index("params.method")
        table["gain"] = table["metrics.top1"] - table["metrics.top1"]["control"]
        mlflow.log_table(table[["metrics.top1", "gain"]].round(4).reset_index(), "methods.json")
        best = table["gain"].idxmax()
        if best != "control":  # controls stay out of the registry
            (logged,) = MlflowClient().get_run(table["run_id"][best]).outputs.model_outputs
            version = mlflow.register_model(f"models:/{logged.model_id}", experiment.name)
            MlflowClient().set_registered_model_alias(experiment.name, "champion", version.version)
    context.add_output_metadata({"methods": table["metrics.top1"].to_dict(), "champion": best})


ASSETS = [wines, model, comparison]
RESOURCES = {"experiment": Experiment()}
defs = dg.Definitions(ASSETS, resources=RESOURCES)

if __name__ == "__main__":
    with dg.DagsterInstance.ephemeral() as instance:
        for asset, partition in ((wines, None), *((model, method) for method in ESTIMATORS)):
            dg.materialize(
                ASSETS,
                selection=[asset],
                partition_key=partition,
                instance=instance,
                resources=RESOURCES,
            )
        dg.materialize(ASSETS, selection=[comparison], instance=instance, resources=RESOURCES)
