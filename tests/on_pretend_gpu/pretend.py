"""A device beside the CPU that computes on the CPU, so that a mix of the two is found where there is no GPU.

A tensor there (`OnDevice`) wraps one in the CPU's memory and says that it is on a device that torch knows as
any other: `.numpy()` of it fails, and an operation on it and on a CPU tensor of more than no dimensions
does, as on a GPU. Triton kernels run interpreted, on what is wrapped, and take tensors of the device alone.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._library.custom_ops import CustomOpDef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from triton.runtime import interpreter

NAME = "pretend"
CPU = torch.device("cpu")
ATEN = torch.ops.aten
CROSSING = {ATEN._to_copy.default, ATEN.copy_.default, ATEN._local_scalar_dense.default}
INDEXED = {
    packet.overloadpacket for packet in (ATEN.index.Tensor, ATEN.index_put.default, ATEN.index_put_.default)
} | {ATEN._index_put_impl_}
"""Of what is on the device their indices may be on the CPU."""
MATH_ATTENTION = 0


@functools.cache
def device() -> torch.device:
    """Registered when it is first asked for: torch knows of it for good."""
    from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

    class Module(_DummyBackendModule):
        def get_rng_state(self, device: Any = None) -> Tensor:
            return torch.get_rng_state()

        def set_rng_state(self, state: Tensor, device: Any = None) -> None:
            torch.set_rng_state(state)

    _setup_privateuseone_for_python_backend(NAME, Module())
    return torch.device(NAME, 0)


class DeviceMixError(RuntimeError):
    """What would fail on a GPU."""


class OnDevice(Tensor):
    """Numbers in the CPU's memory, on another device as far as torch knows."""

    numbers: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, numbers: Tensor) -> "OnDevice":
        assert type(numbers) is Tensor
        wrapper: OnDevice = Tensor._make_wrapper_subclass(
            cls,
            numbers.size(),
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            layout=numbers.layout,
            device=device(),
        )
        wrapper.numbers = numbers.detach()
        return wrapper

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return compute(func, args, kwargs or {})

    # A module's parameters are swapped for wrapped ones by `Module.to` then, in place.

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["numbers"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], context: None, size: Any, stride: Any) -> "OnDevice":
        return OnDevice(inner["numbers"])

    def data_ptr(self) -> int:
        return self.numbers.data_ptr()

    def tolist(self) -> Any:
        return self.numbers.tolist()

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, other: Tensor) -> None:
        assert isinstance(other, OnDevice), f"a parameter on {self.device} gets data on {other.device}"
        of_tensors: Any = Tensor.data
        of_tensors.__set__(self, other)
        self.numbers = other.numbers


class PretendDevice(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is on, tensors can be made on the device and moved to it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return compute(func, args, kwargs or {})


def compute(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if func.namespace == "trieline":
        expect_one_device(func, args, kwargs)
        with PretendDevice():
            return BODIES[func](*args, **kwargs)
    if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
        # In inference mode torch leaves it to whoever looks.
        with PretendDevice():
            return func.decompose(*args, **kwargs)
    if func is ATEN._fused_sdp_choice.default:
        return MATH_ATTENTION
    asked = kwargs.get("device")
    if asked is not None:
        kwargs = {**kwargs, "device": CPU}
    if func not in CROSSING:
        expect_one_device(func, args, kwargs)
    on_device = any(isinstance(leaf, OnDevice) for leaf in tree_leaves((args, kwargs)))
    wrapped = on_device if asked is None else torch.device(asked).type == NAME
    if func is ATEN._local_scalar_dense.default:
        wrapped = False
    out = func(*tree_map(unwrapped, args), **tree_map(unwrapped, kwargs))
    if func is ATEN.mm.dtype and on_device:
        return OnDevice(out)
    if func._schema.is_mutable:
        return written(func, args, kwargs, out)
    # A view is an inference tensor iff what it is of is one.
    is_view = any(returned.alias_info is not None for returned in func._schema.returns)
    with torch.inference_mode(args[0].is_inference()) if is_view else contextlib.nullcontext():
        return tree_map(lambda leaf: OnDevice(leaf) if type(leaf) is Tensor and wrapped else leaf, out)


def written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
    """What an operation that writes returns: the very tensors that it wrote to."""
    given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
    targets = [
        given[argument.name]
        for argument in func._schema.arguments
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    count = len(func._schema.returns)
    if count == 0:
        return out
    return targets[0] if count == 1 else tuple(targets[:count])


def expect_one_device(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if func.overloadpacket in INDEXED and isinstance(args[0], OnDevice):
        args = (args[0], *args[2:])
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    elsewhere = [t for t in tensors if not isinstance(t, OnDevice) and t.dim()]
    if elsewhere and any(isinstance(t, OnDevice) for t in tensors):
        shapes = [(str(t.device), tuple(t.shape)) for t in tensors]
        msg = f"{func}: expected all tensors on one device, got {shapes}"
        raise DeviceMixError(msg)


def unwrapped(leaf: Any) -> Any:
    return leaf.numbers if isinstance(leaf, OnDevice) else leaf


BODIES: dict[Any, Callable[..., Any]] = {}
"""Of the project's own operators: they run on wrapped tensors, not on what is wrapped."""


def _know_operators() -> None:
    from trieline.kernels.gpu import token_logprob_op, tree_attention_op

    for module in (token_logprob_op, tree_attention_op):
        for value in vars(module).values():
            if isinstance(value, CustomOpDef):
                BODIES[value._opoverload] = value._init_fn


@contextlib.contextmanager
def pretend_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """The device. To be used in processes of their own."""
    from trieline.kernels import slot_attention, token_logprob, tree_plan

    _know_operators()
    for module in (slot_attention, token_logprob, tree_plan):
        monkeypatch.setattr(module, "takes_triton", lambda device, dtype: device.type == NAME)
    launch = interpreter.GridExecutor.__call__

    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        for tensor in (a for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)):
            assert isinstance(tensor, OnDevice), f"a kernel gets a tensor {tuple(tensor.shape)} on the CPU"
        return launch(self, *tree_map(unwrapped, args), **tree_map(unwrapped, kwargs))

    monkeypatch.setattr(interpreter.GridExecutor, "__call__", checked)
    # So that `torch.tensor(..., device=...)` moves what it made where it is seen here.
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        with PretendDevice():
            yield device()
    finally:
        torch._C._set_only_lift_cpu_tensors(before)
