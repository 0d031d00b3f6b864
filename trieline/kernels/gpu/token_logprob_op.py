"""`token_logprob` on the GPU: the vocabulary in chunks, one product and one pass over its logits for each.

The products run in cuBLAS with float32 results; Triton does what stands between them. With l the logits of a
chunk over temperature, every row carries (largest, s, u) over the chunks, sums of e^(l - largest) and of
(l - largest) e^(l - largest), from which

    lse = largest + log s        H = log s - u / s        logprob[m] = l[row[m], target[m]] - lse

The backward makes the logits of a chunk again and overwrites them by

    dl = sum over targets m of the row of g_logprob[m] (1[v = target[m]] - p) - g_H p (l - lse + H)

A row is computed once, however many targets it has. Shapes: R rows, M targets, D hidden size, V vocabulary.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LOWEST = tl.constexpr(-1e30)
_BLOCK = 2048
_NUM_WARPS = 8
_ALIGNMENT = 128


@triton.jit(do_not_specialize=["num_columns", "first_column", "stride"])
def accumulate_kernel(
    Logits,
    Largest,
    Sum,
    WeightedSum,
    Starts,
    Targets,
    Chosen,
    stride,
    num_columns,
    first_column,
    inverse_temperature,
    BLOCK: tl.constexpr,
):
    """Add a chunk's logits [R, num_columns] to the sums of one row, and keep those of its targets."""
    row = tl.program_id(0)
    Logits += row.to(tl.int64) * stride
    largest = tl.load(Largest + row)
    total = tl.load(Sum + row)
    weighted = tl.load(WeightedSum + row)
    for start in range(0, num_columns, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < num_columns
        logits = tl.load(Logits + columns, mask=inside, other=float("-inf")) * inverse_temperature
        larger = tl.maximum(largest, tl.max(logits, axis=0))
        # Sums so far, moved from their old maximum to the new one.
        shift = largest - larger
        shrink = tl.exp(shift)
        weighted = shrink * (weighted + shift * total)
        total = shrink * total
        below = tl.where(inside, logits - larger, 0.0)
        masses = tl.where(inside, tl.exp(below), 0.0)
        total += tl.sum(masses, axis=0)
        weighted += tl.sum(masses * below, axis=0)
        largest = larger
    tl.store(Largest + row, largest)
    tl.store(Sum + row, total)
    tl.store(WeightedSum + row, weighted)
    for m in range(tl.load(Starts + row), tl.load(Starts + row + 1)):
        column = tl.load(Targets + m) - first_column
        here = (column >= 0) & (column < num_columns)
        tl.store(Chosen + m, tl.load(Logits + column, mask=here) * inverse_temperature, mask=here)


@triton.jit(do_not_specialize=["num_columns", "first_column", "stride", "stride_grad"])
def gradient_kernel(
    Logits,
    Grad,
    Lse,
    Entropies,
    GradLogprobs,
    GradEntropies,
    Starts,
    Targets,
    stride,
    stride_grad,
    num_columns,
    first_column,
    inverse_temperature,
    BLOCK: tl.constexpr,
):
    """Gradient of BLOCK logits of one row of a chunk, in the precision of the products that it goes into."""
    row = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < num_columns
    logits = tl.load(Logits + row.to(tl.int64) * stride + columns, mask=inside, other=0.0)
    logprobs = logits * inverse_temperature - tl.load(Lse + row)
    grad_entropy = tl.load(GradEntropies + row)
    entropy = tl.load(Entropies + row)
    first = tl.load(Starts + row)
    stop = tl.load(Starts + row + 1)
    grad_row = 0.0
    at_targets = tl.zeros([BLOCK], tl.float32)
    for m in range(first, stop):
        grad = tl.load(GradLogprobs + m)
        grad_row += grad
        at_targets += tl.where(columns + first_column == tl.load(Targets + m), grad, 0.0)
    grads = at_targets - tl.exp(logprobs) * (grad_row + grad_entropy * (logprobs + entropy))
    pointers = Grad + row.to(tl.int64) * stride_grad + columns
    tl.store(pointers, (grads * inverse_temperature).to(Grad.dtype.element_ty), mask=inside)


def check_operands(hidden: Tensor, weight: Tensor, rows: Tensor, targets: Tensor, temperature: float) -> None:
    """Raise ValueError for what the kernels can't do."""
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        msg = f"expected hidden [R, D] and weight [V, D], got {[*hidden.shape]} and {[*weight.shape]}"
    elif rows.ndim != 1 or rows.shape != targets.shape:
        msg = f"expected rows and targets of one length, got {[*rows.shape]} and {[*targets.shape]}"
    elif hidden.dtype not in DTYPES or weight.dtype != hidden.dtype:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        msg = f"expected hidden and weight of one dtype among {names}, got {hidden.dtype} and {weight.dtype}"
    elif rows.is_floating_point() or targets.is_floating_point():
        msg = f"expected integer rows and targets, got {rows.dtype} and {targets.dtype}"
    elif len({t.device for t in (hidden, weight, rows, targets)}) > 1:
        msg = (
            "expected all operands on one device, "
            f"got {hidden.device}, {weight.device}, {rows.device} and {targets.device}"
        )
    elif temperature <= 0:
        msg = f"expected a temperature above 0, got {temperature}"
    else:
        return
    raise ValueError(msg)


def chunk_columns(num_rows: int, vocab_size: int, element_bytes: int, logits_budget: int) -> int:
    """Columns of a chunk, so that its float32 logits and their gradient stay within `logits_budget` bytes."""
    columns = logits_budget // (max(num_rows, 1) * (4 + element_bytes)) // _ALIGNMENT * _ALIGNMENT
    return int(min(max(columns, _ALIGNMENT), vocab_size))


@torch.library.custom_op("trieline::token_logprob", mutates_args=())
def token_logprob_op(
    hidden: Tensor, weight: Tensor, rows: Tensor, targets: Tensor, temperature: float, logits_budget: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities [M], entropies [R] and log-normalisers [R], float32.

    A target outside the vocabulary, or of a row that is none, gets NaN: nothing here waits to look.
    """
    num_rows, vocab_size = len(hidden), len(weight)
    order, starts = _by_row(rows, num_rows)
    targets = targets[order]
    largest = hidden.new_full((num_rows,), LOWEST.value, dtype=torch.float32)
    total, weighted = torch.zeros_like(largest), torch.zeros_like(largest)
    chosen = largest.new_full((len(targets),), float("nan"))
    columns = chunk_columns(num_rows, vocab_size, hidden.element_size(), logits_budget)
    workspace = _workspace(num_rows, columns, hidden)
    for start in range(0, vocab_size if num_rows else 0, columns):
        logits = _product(hidden, weight[start : start + columns].T, workspace)
        accumulate_kernel[(num_rows,)](
            logits, largest, total, weighted, starts, targets, chosen, logits.stride(0),
            logits.shape[1], start, 1.0 / temperature, BLOCK=_BLOCK, num_warps=_NUM_WARPS,
        )  # fmt: skip
    log_total = total.log()
    lse = largest + log_total
    logprobs = torch.empty_like(chosen)
    in_range = rows[order].clamp(0, max(num_rows - 1, 0))
    logprobs[order] = chosen - lse[in_range] if num_rows else chosen
    return logprobs, log_total - weighted / total, lse


@torch.library.custom_op("trieline::token_logprob_backward", mutates_args=())
def token_logprob_backward_op(
    grad_logprobs: Tensor,
    grad_entropies: Tensor,
    hidden: Tensor,
    weight: Tensor,
    rows: Tensor,
    targets: Tensor,
    entropies: Tensor,
    lse: Tensor,
    temperature: float,
    logits_budget: int,
) -> tuple[Tensor, Tensor]:
    """Gradients of hidden [R, D], summed over the chunks in float32, and of weight [V, D]."""
    num_rows, vocab_size = len(hidden), len(weight)
    if not num_rows:
        return torch.zeros_like(hidden), torch.zeros_like(weight)
    order, starts = _by_row(rows, num_rows)
    targets, grad_logprobs = targets[order], grad_logprobs[order].float()
    grad_entropies = grad_entropies.float().contiguous()
    grad_hidden = torch.zeros_like(hidden, dtype=torch.float32)
    grad_weight = torch.empty_like(weight)
    columns = chunk_columns(num_rows, vocab_size, hidden.element_size(), logits_budget)
    workspace = _workspace(num_rows, columns, hidden)
    grad_workspace = (
        workspace if hidden.dtype == torch.float32 else torch.empty_like(workspace, dtype=hidden.dtype)
    )
    for start in range(0, vocab_size, columns):
        part = weight[start : start + columns]
        logits = _product(hidden, part.T, workspace)
        grad = grad_workspace[: logits.numel()].view_as(logits)
        gradient_kernel[(num_rows, triton.cdiv(logits.shape[1], _BLOCK))](
            logits, grad, lse, entropies, grad_logprobs, grad_entropies, starts, targets,
            logits.stride(0), grad.stride(0), logits.shape[1], start, 1.0 / temperature,
            BLOCK=_BLOCK, num_warps=_NUM_WARPS,
        )  # fmt: skip
        grad_hidden += _product(grad, part)
        torch.mm(grad.T, hidden, out=grad_weight[start : start + columns])
    return grad_hidden.to(hidden.dtype), grad_weight


def _by_row(rows: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """The order that sorts targets by row, and where each row's targets start [R + 1], int32."""
    ordered, order = torch.sort(rows, stable=True)
    edges = torch.arange(num_rows + 1, device=rows.device, dtype=rows.dtype)
    return order, torch.searchsorted(ordered, edges, out_int32=True)


def _workspace(num_rows: int, columns: int, like: Tensor) -> Tensor:
    return like.new_empty(num_rows * columns, dtype=torch.float32)


def _product(a: Tensor, b: Tensor, workspace: Tensor | None = None) -> Tensor:
    """a @ b with a float32 result: in bfloat16, logits of 20 would be off by up to 0.06."""
    out = None if workspace is None else workspace[: a.shape[0] * b.shape[1]].view(a.shape[0], b.shape[1])
    if a.dtype == torch.float32:
        return torch.mm(a, b, out=out)
    if a.device.type == "cuda":
        return torch.mm(a, b, torch.float32, out=out)
    return torch.mm(a.float(), b.float(), out=out)


@token_logprob_op.register_fake
def _(hidden: Tensor, weight: Tensor, rows: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    by_row = hidden.new_empty(len(hidden), dtype=torch.float32)
    return by_row.new_empty(len(rows)), by_row, torch.empty_like(by_row)


@token_logprob_backward_op.register_fake
def _(
    grad_logprobs: Tensor, grad_entropies: Tensor, hidden: Tensor, weight: Tensor, *_: Any
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(hidden), torch.empty_like(weight)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *operands, ctx.temperature, ctx.logits_budget = inputs
    _, entropies, lse = output
    ctx.save_for_backward(*operands, entropies, lse)
    ctx.mark_non_differentiable(lse)


def _backward(
    ctx: Any, grad_logprobs: Tensor, grad_entropies: Tensor, grad_lse: Tensor
) -> tuple[Tensor | None, ...]:
    del grad_lse
    gradients = token_logprob_backward_op(
        grad_logprobs, grad_entropies, *ctx.saved_tensors, ctx.temperature, ctx.logits_budget
    )
    return (*gradients, None, None, None, None)


token_logprob_op.register_autograd(_backward, setup_context=_setup_context)
