"""MLflow: the server or database of MLFLOW_TRACKING_URI, else MLflow's own default, a SQLite file."""

import re
import time
from collections.abc import Mapping

from mlflow.entities import Metric, Param, Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from trieline.launcher.trackers.tracker import TrackedRun, flattened

ID_TAG = "trieline.run"
# The server takes no more at once.
MOST_METRICS, MOST_PARAMS = 1000, 100
MOST_KEY, MOST_VALUE = 250, 6000

_FORBIDDEN = re.compile(r"[^\w\-. :/]", re.ASCII)


class MlflowTracker:
    """One run there. It has no name with an `@`, so avg@k is `avg_at_k`."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client = client
        self._run_id = run_id

    def send(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        metrics = [Metric(metric_name(name), value, now, step) for name, value in values.items()]
        for first in range(0, len(metrics), MOST_METRICS):
            self._client.log_batch(self._run_id, metrics=metrics[first : first + MOST_METRICS])

    def close(self) -> None:
        self._client.set_terminated(self._run_id)


def metric_name(name: str) -> str:
    """As MLflow takes it."""
    return _FORBIDDEN.sub("_", name.replace("@", "_at_"))[:MOST_KEY]


def open_run(run: TrackedRun) -> MlflowTracker:
    """Begin it, or go on with it: it is found by a tag with our id."""
    client = MlflowClient()
    experiment_id = _experiment(client, run.project)
    found = client.search_runs([experiment_id], f"tags.`{ID_TAG}` = '{run.id}'", max_results=1)
    if found:
        there: Run = found[0]
        client.update_run(there.info.run_id, status="RUNNING")
    else:
        there = client.create_run(experiment_id, run_name=run.name, tags={ID_TAG: run.id})
    _add_params(client, there, run)
    return MlflowTracker(client, there.info.run_id)


def _experiment(client: MlflowClient, name: str) -> str:
    there = client.get_experiment_by_name(name)
    if there is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException:
            # Another run may have made it in this very moment.
            there = client.get_experiment_by_name(name)
            if there is None:
                raise
    return str(there.experiment_id)


def _add_params(client: MlflowClient, there: Run, run: TrackedRun) -> None:
    """Those that are not there yet: what is there can't be changed, and a run may go on with others."""
    params = [
        Param(_FORBIDDEN.sub("_", name)[:MOST_KEY], text[:MOST_VALUE])
        for name, text in flattened(run.facts).items()
    ]
    new = [param for param in params if param.key not in there.data.params]
    for first in range(0, len(new), MOST_PARAMS):
        client.log_batch(there.info.run_id, params=new[first : first + MOST_PARAMS])
