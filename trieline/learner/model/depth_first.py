"""A trie beyond the budget, run segment by segment along its paths, with the gradients of one pass.

On the way down each segment attends to the keys and values of the path above it and adds its own. On the way
up, after everything that hangs below it, each segment runs its backward from its loss and from the gradients
that later segments have left at its keys and values, and leaves its own at those above. Activations are kept
of as many tokens as `cut_segments` was given for a budget, keys and values (and their gradients) of one path,
and nothing else.

What it costs over one pass: a further forward of the segments that don't keep their activations (a third of
their time; none where the longest path and a segment fit into the budget), and for each segment one addition
to the gradients of all parameters.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trieline.kernels.cpu.precision import sum_dtype
from trieline.kernels.segment_attention import segment_attention
from trieline.kernels.tree_plan import TreeAttentionPlan
from trieline.learner.batch.segments import Segment
from trieline.learner.batch.trie import Trie
from trieline.learner.model.tree_forward import TreeContext, TreeModel

SegmentLoss = Callable[[int, Tensor], Tensor | None]
"""From the index of a segment and its hidden states [T, D] to its share of the loss; None: it has none."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _LayerPath:
    """Of one layer, P the longest path that anything hangs below."""

    keys: Tensor
    values: Tensor
    """[1, G, P, D] of the current path, by depth."""
    grad_keys: Tensor
    grad_values: Tensor
    """[1, G, P, D] in the precision of the backward: what segments below have left so far."""

    @classmethod
    def empty(cls, like: Tensor, length: int) -> "_LayerPath":
        _, heads, _, size = like.shape
        # By depth, so that the first of them are one piece of memory.
        keys, values, grad_keys, grad_values = (
            torch.zeros(1, length, heads, size, dtype=dtype, device=like.device).transpose(1, 2)
            for dtype in (like.dtype, like.dtype, *[sum_dtype(like.dtype)] * 2)
        )
        return cls(keys=keys, values=values, grad_keys=grad_keys, grad_values=grad_values)


class _Path:
    """Keys and values of the current path, layer by layer; made when the first segment shows their shape."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._length = max(s.depth + len(s.trunk) for s in segments)
        self._layers: list[_LayerPath] = []

    def layer(self, index: int, like: Tensor) -> _LayerPath:
        if index == len(self._layers):
            self._layers.append(_LayerPath.empty(like, self._length))
        return self._layers[index]

    def take_gradients(self, index: int, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Gradients left at depths `start:stop` of a layer; there are none afterwards."""
        layer = self._layers[index]
        parts = (layer.grad_keys[:, :, start:stop], layer.grad_values[:, :, start:stop])
        taken = (parts[0].clone(), parts[1].clone())
        for part in parts:
            part.zero_()
        return taken


class _SegmentContext(TreeContext):
    """Attention of one segment, layer by layer; afterwards the keys and values of its trunk."""

    can_be_repeated = False

    def __init__(self, plan: TreeAttentionPlan, segment: Segment, path: _Path) -> None:
        super().__init__(plan)
        self._depth = segment.depth
        self._trunk = torch.from_numpy(segment.trunk).to(plan.subtree_end.device)
        self._path = path
        self.trunk_keys: list[Tensor] = []
        self.trunk_values: list[Tensor] = []
        """[1, G, K, D] a layer, with gradient if the segment keeps its graph."""

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, *, scale: float, softcap: float, window: int
    ) -> Tensor:
        layer = self._path.layer(len(self.windows), key)
        plan = self.take_plan(window)
        above = [
            _left_to(layer.keys, layer.grad_keys, self._depth),
            _left_to(layer.values, layer.grad_values, self._depth),
        ]
        if len(self._trunk):
            trunk = slice(self._depth, self._depth + len(self._trunk))
            for own, path, kept in (
                (key, layer.keys, self.trunk_keys),
                (value, layer.values, self.trunk_values),
            ):
                kept.append(own.index_select(2, self._trunk))
                path[:, :, trunk] = kept[-1].detach()
        return segment_attention(query, key, value, above[0], above[1], plan, scale=scale, softcap=softcap)


def _left_to(path: Tensor, grads: Tensor, depth: int) -> Tensor:
    """The first `depth` keys or values of the path, as a leaf whose gradient is added to `grads` in place."""
    leaf = path[:, :, :depth].detach()
    if torch.is_grad_enabled():
        leaf.requires_grad_()
        leaf.grad_dtype = grads.dtype
        leaf.grad = grads[:, :, :depth]
    return leaf


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Run:
    """A segment that has been run."""

    hidden: Tensor
    context: _SegmentContext


def forward_depth_first(model: TreeModel, trie: Trie, segments: Sequence[Segment]) -> Iterator[Tensor]:
    """Hidden states [T, D] of each segment in turn, without gradients."""
    path = _Path(segments)
    for segment in segments:
        with torch.no_grad():
            hidden = _run(model, trie, segment, path).hidden
        yield hidden


def backward_depth_first(
    model: TreeModel, trie: Trie, segments: Sequence[Segment], loss: SegmentLoss
) -> None:
    """Add to `.grad` of the parameters the gradient of the sum of `loss` over all segments.

    `loss` is called once for each segment, after it was called for all that hang below.
    """
    path = _Path(segments)
    under_way: list[tuple[int, _Run | None]] = []
    for i, segment in enumerate(segments):
        while under_way and segments[under_way[-1][0]].end <= i:
            _leave(model, trie, segments, *under_way.pop(), path, loss)
        with torch.set_grad_enabled(segment.keeps_graph):
            run = _run(model, trie, segment, path)
        under_way.append((i, run if segment.keeps_graph else None))
    while under_way:
        _leave(model, trie, segments, *under_way.pop(), path, loss)


def _run(model: TreeModel, trie: Trie, segment: Segment, path: _Path) -> _Run:
    plan = model.plan(segment.subtree_end(trie), num_above=segment.depth)
    context = _SegmentContext(plan, segment, path)
    hidden = model.run(trie.token_ids[segment.tokens], trie.position[segment.tokens], context)
    return _Run(hidden=hidden, context=context)


def _leave(
    model: TreeModel,
    trie: Trie,
    segments: Sequence[Segment],
    index: int,
    run: _Run | None,
    path: _Path,
    loss: SegmentLoss,
) -> None:
    """The backward of a segment whose activations are at hand, or are computed again now."""
    segment = segments[index]
    if run is None:
        run = _run(model, trie, segment, path)
    ends: list[Tensor] = []
    gradients: list[Tensor | None] = []
    share = loss(index, run.hidden)
    if share is not None:
        ends.append(share)
        gradients.append(None)
    for layer, own in enumerate(zip(run.context.trunk_keys, run.context.trunk_values, strict=True)):
        left = path.take_gradients(layer, segment.depth, segment.depth + len(segment.trunk))
        for tensor, gradient in zip(own, left, strict=True):
            # Below the first layer that is trained, keys and values have no gradient.
            if tensor.requires_grad:
                ends.append(tensor)
                gradients.append(gradient.to(tensor.dtype))
    if ends:
        torch.autograd.backward(ends, gradients)
