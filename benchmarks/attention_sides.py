"""The ways to attend that `benchmarks.tree_attention` compares, each with its operands and its plan.

Letters: B rows, T tokens a row, H query heads, G key-value heads, D head size, N tokens of the pack.
"""

import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from trieline.kernels.cpu.precision import HALF_DTYPES
from trieline.kernels.path_intervals import path_intervals
from trieline.kernels.tree_attention import reference_tree_attention, tree_attention
from trieline.kernels.tree_plan import plan_tree_attention

DENSE_LIMIT = 16_384
"""Tokens from which the dense mask is left out: it alone takes N^2 bytes."""
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
Operands = tuple[Tensor, Tensor, Tensor]
"""q [B, H, T, D], k and v [B, G, T, D]."""
Varlen = Callable[[Tensor, Tensor, Tensor, "Rows"], Tensor]
"""q [T, H, D] of rows one after the other, k and v [T', G, D] of theirs, to [T, H, D]: the last query of a
row sees all of its keys, the one before it all but the last, and so on."""


class LeftOutError(Exception):
    """Why a side does not run here."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """A way to attend, and what it attends to."""

    attend: Attention
    """q, k, v to [B, T, H, D]."""
    operands: Operands
    token: Tensor | None = None
    """[B, T] the trie's token that each row of the output stands for; None: all in order."""
    planning: float = 0.0
    """Seconds."""


@dataclass(frozen=True, kw_only=True)
class Pack:
    """What there is to attend to."""

    ends: Tensor
    paths: Sequence[np.ndarray]
    qkv: Operands
    scale: float
    most_sequence_tokens: int

    @property
    def on_cpu(self) -> bool:
        return self.ends.device.type == "cpu"

    def rows(self, token: np.ndarray) -> tuple[Tensor, Operands]:
        """The operands of the tokens `token` [B, T], as leaves of their own."""
        if token.size > self.most_sequence_tokens:
            msg = f"{token.size} tokens are over --max-sequence-tokens"
            raise LeftOutError(msg)
        index = torch.from_numpy(token).to(self.ends.device)
        q, k, v = (t.detach().transpose(1, 2)[0][index].transpose(1, 2).requires_grad_() for t in self.qkv)
        return index, (q, k, v)

    def packed(self) -> tuple[Tensor, Operands]:
        """The separate sequences one after the other."""
        return self.rows(np.concatenate(self.paths)[None])

    def padded(self) -> tuple[Tensor, Operands]:
        """The separate sequences as rows, padded with their last token."""
        longest = max(map(len, self.paths))
        return self.rows(np.stack([np.pad(p, (0, longest - len(p)), mode="edge") for p in self.paths]))


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(run: Callable[[], object]) -> float:
    synchronize()
    start = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - start


def tree_side(pack: Pack, *, reproducible: bool = False) -> Side:
    def make() -> Any:
        return plan_tree_attention(pack.ends, dtype=pack.qkv[0].dtype, reproducible=reproducible)

    return _planned(pack, make, tree_attention)


def repeatable_side(pack: Pack) -> Side:
    if not pack.on_cpu or pack.qkv[0].dtype not in HALF_DTYPES:
        msg = "what tree is already: only on a CPU in half precision there is a choice"
        raise LeftOutError(msg)
    return tree_side(pack, reproducible=True)


def flex_side(pack: Pack) -> Side:
    if pack.on_cpu:
        msg = "flex_attention has no backward on the CPU"
        raise LeftOutError(msg)
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    torch.compiler.reset()  # each pack is one more compilation, and after eight torch stops compiling
    ends, tokens = pack.ends, len(pack.ends)

    def visible(_b: Tensor, _h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (j <= i) & (i < ends[j])

    make: Any = torch.compile(create_block_mask)

    def plan() -> Any:
        return make(visible, None, None, tokens, tokens, device=ends.device)

    mask = plan()
    compiled: Any = torch.compile(flex_attention, dynamic=False)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = compiled(q, k, v, block_mask=mask, scale=pack.scale, enable_gqa=True)
        return out.transpose(1, 2)

    return Side(attend=attend, operands=pack.qkv, planning=min(seconds_of(plan) for _ in range(5)))


def intervals_side(pack: Pack) -> Side:
    if pack.on_cpu:
        msg = "cudnn.flex_attention needs a GPU"
        raise LeftOutError(msg)
    try:
        from trieline.kernels.gpu.cudnn_attention import cudnn_attention, plan_cudnn_attention
    except ImportError as error:
        msg = f"nvidia-cudnn-frontend is not installed: {error}"
        raise LeftOutError(msg) from error

    def make() -> Any:
        return plan_cudnn_attention(path_intervals(pack.ends), *pack.qkv)

    return _planned(pack, make, cudnn_attention)


def _planned(pack: Pack, make: Callable[[], Any], attend: Callable[..., Any]) -> Side:
    """A side whose plan is made once a pack, and timed apart."""
    plan = make()
    return Side(
        attend=lambda q, k, v: attend(q, k, v, plan, scale=pack.scale),
        operands=pack.qkv,
        planning=min(seconds_of(make) for _ in range(5)),
    )


def sequences_side(pack: Pack) -> Side:
    if not pack.on_cpu:
        token, operands = pack.padded()
        return Side(attend=lambda q, k, v: _causal(q, k, v, pack.scale), operands=operands, token=token)
    token, operands = pack.packed()
    lengths = [len(path) for path in pack.paths]

    def one_by_one(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows = zip(*(t.split_with_sizes(lengths, dim=2) for t in (q, k, v)), strict=True)
        return torch.cat([_causal(q, k, v, pack.scale) for q, k, v in rows], dim=1)

    return Side(attend=one_by_one, operands=operands, token=token)


def cudnn_side(pack: Pack) -> Side:
    if pack.on_cpu:
        msg = "cuDNN needs a GPU"
        raise LeftOutError(msg)
    token, operands = pack.padded()

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            return _causal(q, k, v, pack.scale)

    def attend_repeated(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        group = q.shape[1] // k.shape[1]
        return attend(q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1))

    try:
        attend(*(t.detach()[:1, :, :64] for t in operands))
    except RuntimeError:
        # Groups of query heads on one key-value head are not for every version.
        return Side(attend=attend_repeated, operands=operands, token=token)
    return Side(attend=attend, operands=operands, token=token)


def _causal(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return functional.scaled_dot_product_attention(
        q, k, v, is_causal=True, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    ).transpose(1, 2)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Where rows of queries and their keys begin and end, one after the other."""

    queries: Tensor
    keys: Tensor
    """int32 [R + 1]"""
    longest_query: int
    longest_key: int

    @classmethod
    def of(cls, queries: Sequence[int], keys: Sequence[int], device: torch.device) -> "Rows":
        starts = [
            torch.from_numpy(np.cumsum([0, *lengths], dtype=np.int32)).to(device)
            for lengths in (queries, keys)
        ]
        return cls(queries=starts[0], keys=starts[1], longest_query=max(queries), longest_key=max(keys))


def flash_varlen() -> Varlen:
    """FlashAttention's own, of the version that is installed."""
    try:
        from flash_attn_interface import flash_attn_varlen_func
    except ImportError:
        try:
            from flash_attn import flash_attn_varlen_func
        except ImportError as error:
            msg = f"not installed: {error}"
            raise LeftOutError(msg) from error

    def attend(q: Tensor, k: Tensor, v: Tensor, rows: Rows) -> Tensor:
        found: Any = flash_attn_varlen_func(
            q,
            k,
            v,
            cu_seqlens_q=rows.queries,
            cu_seqlens_k=rows.keys,
            max_seqlen_q=rows.longest_query,
            max_seqlen_k=rows.longest_key,
            causal=True,
        )
        out: Tensor = found[0] if isinstance(found, tuple) else found
        return out

    return attend


def torch_varlen() -> Varlen:
    """FlashAttention as torch brings it; its arguments are not those of every version."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError as error:
        msg = f"not in torch {torch.__version__}"
        raise LeftOutError(msg) from error
    if not torch.cuda.is_available():
        msg = "FlashAttention needs a GPU"
        raise LeftOutError(msg)
    call: Any = varlen_attn
    known = inspect.signature(call).parameters
    how: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    takes_groups = "enable_gqa" in known
    if takes_groups:
        how["enable_gqa"] = True

    def attend(q: Tensor, k: Tensor, v: Tensor, rows: Rows) -> Tensor:
        if not takes_groups:
            k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
        out: Tensor = call(q, k, v, rows.queries, rows.keys, rows.longest_query, rows.longest_key, **how)
        return out

    return attend


def varlen_side(pack: Pack, kernel: Callable[[], Varlen]) -> Side:
    """Separate sequences one after the other, in one call."""
    attend_rows = kernel()
    token, operands = pack.packed()
    lengths = [len(path) for path in pack.paths]
    rows = Rows.of(lengths, lengths, pack.ends.device)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t[0].transpose(0, 1) for t in (q, k, v))
        return attend_rows(q, k, v, rows)[None]

    return Side(attend=attend, operands=operands, token=token)


def any_varlen() -> Varlen:
    try:
        return flash_varlen()
    except LeftOutError:
        return torch_varlen()


def gather_side(pack: Pack, kernel: Callable[[], Varlen] = any_varlen) -> Side:
    """Each run without a fork a row of its own, whose keys are copied together from its whole path."""
    attend_rows = kernel()
    index, rows = gathered_rows(pack.ends)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = (t[0].transpose(0, 1)[index] for t in (k, v))
        return attend_rows(q[0].transpose(0, 1), keys, values, rows)[None]

    return Side(
        attend=attend,
        operands=pack.qkv,
        planning=min(seconds_of(lambda: gathered_rows(pack.ends)) for _ in range(2)),
    )


def gathered_rows(ends: Tensor) -> tuple[Tensor, Rows]:
    """Which keys the runs without a fork see, one run after the other, and where those of each begin."""
    runs = list(runs_of(ends.tolist()))
    spans = [np.arange(start, stop) for start, stop, _ in runs]
    seen = [np.concatenate([spans[run] for run in [*above, s]]) for s, (_, _, above) in enumerate(runs)]
    rows = Rows.of([len(span) for span in spans], [len(keys) for keys in seen], ends.device)
    return torch.from_numpy(np.concatenate(seen)).to(ends.device), rows


def runs_of(ends: Sequence[int]) -> Iterator[tuple[int, int, list[int]]]:
    """First token, one past the last, and the runs above it, of each run of tokens with one subtree's end."""
    starts = [i for i, end in enumerate(ends) if i == 0 or end != ends[i - 1]]
    stops = [*starts[1:], len(ends)]
    under_way: list[int] = []
    for run, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        while under_way and ends[starts[under_way[-1]]] <= start:
            under_way.pop()
        yield start, stop, list(under_way)
        under_way.append(run)


def segments_side(pack: Pack) -> Side:
    """What `gather` is, one small call after the other."""
    if not pack.on_cpu:
        msg = "the way of a CPU: one small call after the other"
        raise LeftOutError(msg)
    runs = list(runs_of(pack.ends.tolist()))
    lengths = [stop - start for start, stop, _ in runs]
    above = [over for _, _, over in runs]
    keys = [sum(lengths[a] for a in above[s]) + lengths[s] for s in range(len(runs))]
    masks = [
        torch.ones(length, key, dtype=torch.bool).tril(key - length) if key > length else None
        for length, key in zip(lengths, keys, strict=True)
    ]

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        queries, own_keys, own_values = (t.split_with_sizes(lengths, dim=2) for t in (q, k, v))
        outs = [
            functional.scaled_dot_product_attention(
                queries[s],
                torch.cat([*(own_keys[a] for a in above[s]), own_keys[s]], dim=2),
                torch.cat([*(own_values[a] for a in above[s]), own_values[s]], dim=2),
                attn_mask=masks[s],
                is_causal=masks[s] is None,
                scale=pack.scale,
                enable_gqa=q.shape[1] != k.shape[1],
            )
            for s in range(len(runs))
        ]
        return torch.cat(outs, dim=2).transpose(1, 2)

    return Side(attend=attend, operands=pack.qkv)


def dense_side(pack: Pack) -> Side:
    tokens = len(pack.ends)
    if tokens > DENSE_LIMIT:
        msg = f"{tokens} tokens are over {DENSE_LIMIT}"
        raise LeftOutError(msg)
    return Side(
        attend=lambda q, k, v: reference_tree_attention(q, k, v, pack.ends, scale=pack.scale),
        operands=pack.qkv,
    )


SIDES: dict[str, Callable[[Pack], Side]] = {
    "tree": tree_side,
    "repeatable": repeatable_side,
    "flex": flex_side,
    "intervals": intervals_side,
    "sequences": sequences_side,
    "cudnn": cudnn_side,
    "flash": lambda pack: varlen_side(pack, flash_varlen),
    "varlen": lambda pack: varlen_side(pack, torch_varlen),
    "gather": gather_side,
    "segments": segments_side,
    "dense": dense_side,
}
