"""A model as transformers reads it from a folder, and nothing read in silence that is not there.

transformers fills what a file lacks with random numbers and says so in a table of its log.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM

from trieline.learner.errors import ModelSourceError

MAX_NAMES = 3
"""Of the tensors that are wrong, so many are listed."""


def load_causal_lm(folder: Path, dtype: torch.dtype, **settings: Any) -> Any:
    """The decoder in `folder`, in evaluation mode. What comes from a folder is data: no code of it is run.

    Raises:
        ModelSourceError: it is of no known type, or a tensor is missing, unknown or of another shape.
    """
    loader: Any = AutoModelForCausalLM
    try:
        model, report = loader.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # reported instead, and refused below
            output_loading_info=True,
            **settings,
        )
    except (OSError, ValueError, KeyError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        msg = f"transformers can't load the model in {folder}: {reason}"
        raise ModelSourceError(msg) from error
    _expect_all_weights(folder, report)
    return model.eval()


def _expect_all_weights(folder: Path, report: Any) -> None:
    def names(kind: str) -> list[str]:
        found = report.get(kind, ()) if isinstance(report, dict) else getattr(report, kind, ())
        return sorted(str(each[0] if isinstance(each, tuple) else each) for each in found or ())

    wrong = [
        f"{text} ({_some(found)})"
        for kind, text in (
            ("missing_keys", "lack {} tensors"),
            ("unexpected_keys", "have {} unknown ones"),
            ("mismatched_keys", "have {} of another shape"),
        )
        if (found := names(kind))
        for text in [text.format(len(found))]
    ]
    if wrong:
        msg = f"the weights in {folder} do not fit its config.json: they {' and '.join(wrong)}"
        raise ModelSourceError(msg)


def _some(names: Collection[str]) -> str:
    listed = ", ".join(list(names)[:MAX_NAMES])
    return f"{listed}, ..." if len(names) > MAX_NAMES else listed
