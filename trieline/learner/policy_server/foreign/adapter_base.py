"""What adapters are merged into for a server that takes whole weights: those of its model folder.

Loaded when the first adapters come, and merged anew for each version, so that nothing adds up over versions.
"""

from pathlib import Path

import torch
from torch import Tensor

from trieline.learner.keeping.weight_file import read_weights
from trieline.learner.model_folder.adapter_weights import low_ranks, merged, read_settings
from trieline.learner.model_folder.loading import load_causal_lm


class AdapterBase:
    """The model's own weights in the precision in which it is computed with."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self._folder, self._dtype = folder, dtype
        self._weights: dict[str, Tensor] | None = None

    def merged(self, path: Path, config: str) -> dict[str, Tensor]:
        """All weights of the model with the adapters of the file `path`, whose configuration is `config`.

        Raises:
            CheckpointError: the adapters do not fit the model.
        """
        settings = read_settings(config, where=path)
        if self._weights is None:
            self._weights = load_causal_lm(self._folder, self._dtype).state_dict()
        weights = dict(self._weights)
        shapes = {name: tensor.shape for name, tensor in weights.items()}
        for name, added in low_ranks(read_weights(path), settings, shapes, where=path).items():
            weights[name] = merged(weights[name], added)
        return weights
