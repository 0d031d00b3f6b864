"""What came of predictions, in the files of the official harness, and what makes a run go on where it was.

Files below a folder, as SWE-bench writes them (`run_evaluation.py`, `reporting.py` of swebench 5.0.2):

    predictions.jsonl
    logs/run_evaluation/<run id>/<model, / as __>/<instance id>/
        patch.diff  test_output.txt  report.json
        grade.json             ours: the cause, for the instances without a report, too
    <model, / as __>.<run id>.json

An instance is done when its `grade.json` is there and of the same patch; one whose sandbox failed has none.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trieline.common.folders import write_whole
from trieline.common.text import shortened
from trieline.envs.errors import DataError
from trieline.envs.swe.grading import Grade
from trieline.envs.swe.infrastructure import infrastructure_sign
from trieline.envs.swe.predictions import Prediction
from trieline.envs.swe.verdict import official_report

SCHEMA_VERSION = 2
# What the official run calls an error: it stops before the tests have had their say, and writes no report.
WITHOUT_REPORT = frozenset(
    {
        *("refused", "not_applied", "tests_not_restored"),
        *("timed_out", "out_of_memory", "out_of_disk", "too_much_output"),
    }
)
MAX_NAME = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What is kept of a grade."""

    instance_id: str
    resolved: bool
    cause: str
    message: str
    seconds: float
    has_report: bool
    infrastructure: str = ""
    """The sign of a broken machine in the log of an unresolved instance."""
    infrastructure_ambiguous: bool = False


def folder_name(model: str) -> str:
    """A model's name as the official files spell it. Raises DataError for one that could be no folder."""
    name = model.replace("/", "__")
    if not name or name in (".", "..") or len(name.encode("utf-8", "replace")) > MAX_NAME or "\0" in name:
        msg = (
            f"expected a model_name_or_path that can name a folder, of at most {MAX_NAME} bytes, "
            f"got {shortened(model, 100)!r}"
        )
        raise DataError(msg)
    return name


class ResultFiles:
    """The files of one run of one model."""

    def __init__(self, folder: Path, *, run_id: str, model: str) -> None:
        self._name = folder_name(model)
        self._logs = folder / "logs" / "run_evaluation" / run_id / self._name
        self.report_path = folder / f"{self._name}.{run_id}.json"

    def instance_folder(self, instance_id: str) -> Path:
        return self._logs / instance_id

    def write(self, prediction: Prediction, grade: Grade) -> Result:
        """Keep a grade; it is done when this returns. Raises OSError."""
        instance_id = prediction.instance_id
        folder = self.instance_folder(instance_id)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "patch.diff", prediction.model_patch.encode("utf-8", "surrogatepass"))
        if grade.log:
            write_whole(folder / "test_output.txt", grade.log.encode("utf-8", "surrogatepass"))
        has_report = grade.cause not in WITHOUT_REPORT
        if has_report:
            report = official_report(instance_id, grade.verdict)
            report[instance_id]["resolved"] = grade.resolved  # which the tests of a forged run say wrongly
            write_whole(folder / "report.json", json.dumps(report, indent=4).encode())
        sign = None if grade.resolved else infrastructure_sign(grade.log)
        result = Result(
            instance_id=instance_id,
            resolved=grade.resolved,
            cause=grade.cause,
            message=grade.message,
            seconds=grade.seconds,
            has_report=has_report,
            infrastructure=sign.reason if sign else "",
            infrastructure_ambiguous=sign is not None and sign.ambiguous,
        )
        kept = {name: getattr(result, name) for name in Result.__slots__} | {"patch": _hash(prediction)}
        write_whole(folder / "grade.json", json.dumps(kept, indent=1).encode())
        return result

    def read(self, prediction: Prediction) -> Result | None:
        """What was kept of the very same patch; None if it is still to be graded. Raises DataError."""
        path = self.instance_folder(prediction.instance_id) / "grade.json"
        try:
            kept = json.loads(path.read_bytes())
            if kept.pop("patch") != _hash(prediction):
                return None
            return Result(**kept)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            msg = f"expected {path} as it was written, got another: {error}; remove it to grade again"
            raise DataError(msg) from error


def _hash(prediction: Prediction) -> str:
    return hashlib.sha256(prediction.model_patch.encode("utf-8", "surrogatepass")).hexdigest()


def run_report(
    instance_ids: Iterable[str], predictions: Mapping[str, Prediction], results: Mapping[str, Result]
) -> dict[str, Any]:
    """The report of a run, in the official schema. Predictions without a result count as errors."""
    all_ids = list(instance_ids)
    empty = {i for i, p in predictions.items() if not p.model_patch}
    graded = {i: results[i] for i in predictions if i in results and i not in empty}
    failed = {i: r for i, r in graded.items() if not r.resolved and r.infrastructure}
    ids = {
        "completed_ids": {i for i, r in graded.items() if r.has_report},
        "incomplete_ids": set(all_ids) - set(predictions),
        "empty_patch_ids": empty,
        "submitted_ids": set(predictions),
        "resolved_ids": {i for i, r in graded.items() if r.resolved},
        "unresolved_ids": {i for i, r in graded.items() if r.has_report and not r.resolved},
        "infra_failure_ids": {i for i, r in failed.items() if not r.infrastructure_ambiguous},
        "ambiguous_failure_ids": {i for i, r in failed.items() if r.infrastructure_ambiguous},
        "error_ids": {
            i for i in predictions if i not in empty and not (i in graded and graded[i].has_report)
        },
    }
    counts = {
        name.removesuffix("_ids") + "_instances": len(found)
        for name, found in ids.items()
        if name != "incomplete_ids"
    }
    return {
        "total_instances": len(all_ids),
        **counts,
        **{name: sorted(found) for name, found in ids.items()},
        "failure_reasons": {i: r.infrastructure for i, r in sorted(failed.items())},
        "schema_version": SCHEMA_VERSION,
    }
