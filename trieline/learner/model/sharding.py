"""A model whose parameters lie in shards over several ranks (FSDP2), and when they are gathered.

Each decoder layer is a group of its own, so that one layer at a time is whole; what is outside of the layers
(embedding, last norm, output weight) is whole from a forward pass to the end of its backward. Gradients are
summed over the ranks: the weights of the loss are those of the whole batch already.

By default every pass gathers each layer when its turn comes, and its gradient is summed as soon as it is
there: all ranks have to make the same passes in the same order. Inside `gathered`, the weights are gathered
once and then stay; the passes of a rank are its own business, and the gradients are summed by the one pass
after the block.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from trieline.learner.errors import ModelRefusedError
from trieline.learner.model.tree_forward import TreeModel


def shard_model(model: TreeModel, mesh: DeviceMesh, dtype: torch.dtype) -> None:
    """Leave of each parameter one shard on this rank, where `mesh` computes; pass by pass in `dtype`.

    What is trained stays float32 at least; what is not, as it is.

    Raises:
        ModelRefusedError: its layers are not found.
    """
    for parameter in model.hf_model.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float64:
            parameter.data = parameter.data.float()
    policy = MixedPrecisionPolicy()
    if {p.dtype for p in model.hf_model.parameters()} != {dtype}:
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    for layer in _layers(model):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    if model.value_head is not None:
        fully_shard(model.value_head, mesh=mesh)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    for module in _groups(model):
        # A sum, not the mean. Without the second line it would be the sum of products with 1, which gloo
        # does not know.
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
    # An expert that no token of this rank went to has no gradient here, but may have one elsewhere.
    _fsdp(model).set_reduce_scatter_unused_params(True)
    register_fsdp_forward_method(model, "run")
    # Of what `run` and the value head return, which nothing here changes in place.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor", UserWarning)
    model.computes_in = dtype


@contextmanager
def gathered(model: TreeModel, reference: TreeModel | None) -> Iterator[Callable[[], None]]:
    """Inside, what was gathered once stays, and gradients of `model` are added up on each rank alone.

    Yields what each rank calls after its last pass: the one backward that then follows, inside the block and
    on every rank, sums the gradients over the ranks.
    """
    models = [model] if reference is None or reference is model else [model, reference]
    for each in models:
        _keep_after_forward(each, keep=True)
        _fsdp(each).set_requires_gradient_sync(False)
        _fsdp(each).set_reshard_after_backward(False)

    def sum_up() -> None:
        for each in models:
            _fsdp(each).set_requires_gradient_sync(True)
            _fsdp(each).set_reshard_after_backward(True)

    yield sum_up
    for each in models:
        _keep_after_forward(each, keep=False)
    for each in models[1:]:
        release(each)


def release(model: TreeModel) -> None:
    """After passes without a backward: what they have gathered is dropped, so that none of it gets stale."""
    if isinstance(model, FSDPModule):
        model.reset_iter_state()


def _keep_after_forward(model: TreeModel, *, keep: bool) -> None:
    for module in _groups(model):
        # What is outside of the layers is kept for the output weight in any case.
        if module is not _fsdp(model):
            module.set_reshard_after_forward(not keep, recurse=False)


def _fsdp(model: TreeModel) -> FSDPModule:
    assert isinstance(model, FSDPModule), "its parameters lie in shards"
    return model


def _groups(model: TreeModel) -> list[FSDPModule]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def _layers(model: TreeModel) -> nn.ModuleList:
    count = model.hf_model.config.get_text_config().num_hidden_layers
    found: list[Any] = [
        module
        for module in model.hf_model.base_model.modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    if not found:
        msg = f"{model.name} can't be trained on several ranks: it has no list of {count} layers"
        raise ModelRefusedError(msg)
    layers: nn.ModuleList = found[0]
    return layers
