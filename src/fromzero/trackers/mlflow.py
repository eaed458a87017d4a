"""MLflow: the server or file of MLFLOW_TRACKING_URI, else mlflow.db in the folder the run was started in."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Set
from typing import Any

from fromzero.runs import Run
from fromzero.trackers import PROJECT, keep, kept, settings

PACKAGE = "mlflow"


def start(run: Run, first: int) -> Tracked:
    import mlflow

    before = kept(run, "mlflow")
    where = before.get("where") or mlflow.get_tracking_uri()
    client = mlflow.MlflowClient(tracking_uri=where)
    if before:
        client.update_run(before["id"], status="RUNNING")
        return Tracked(client, before["id"], where, _heard(client, before["id"], first))
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
    experiment = client.get_experiment_by_name(name)
    number = experiment.experiment_id if experiment else client.create_experiment(name)
    made = client.create_run(number, run_name=run.path.name)
    for key, value in settings(run).items():
        client.log_param(made.info.run_id, key, value)
    keep(run, "mlflow", id=made.info.run_id, where=where)
    return Tracked(client, made.info.run_id, where)


class Tracked:
    exact = True

    def __init__(self, client: Any, identity: str, where: str, heard: Set[tuple[str, int]] = frozenset()) -> None:
        self.client, self.identity, self.where, self.heard = client, identity, where, heard

    def tell(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        new = [Metric(name, value, now, step) for name, value in values.items() if (name, step) not in self.heard]
        if new:
            self.client.log_batch(self.identity, metrics=new)

    def end(self, finished: bool) -> None:
        self.client.set_terminated(self.identity, "FINISHED" if finished else "KILLED")


def _heard(client: Any, identity: str, first: int) -> set[tuple[str, int]]:
    """What it was told of the steps after `first` by a process that was killed."""
    names = client.get_run(identity).data.metrics
    points = [point for name in names for point in client.get_metric_history(identity, name)]
    return {(point.key, point.step) for point in points if point.step > first}
