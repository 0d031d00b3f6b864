from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from trieline.kernels.cpu import flags
from trieline.learner.model.compute_dtype import choose_dtype, dtype_name

X86 = "processor : 0\nmodel name : A CPU\nflags : fpu avx2 avx512f{}\n\nprocessor : 1\nflags : bf16\n"


@pytest.fixture(autouse=True)
def read_anew() -> Iterator[None]:
    flags.has_bfloat16.cache_clear()
    yield
    flags.has_bfloat16.cache_clear()


@pytest.mark.parametrize(
    ("cpuinfo", "dtype"),
    [
        (X86.format(""), torch.float32),
        (X86.format(" avx512_bf16"), torch.bfloat16),
        (X86.format(" amx_tile amx_bf16"), torch.bfloat16),
        ("processor : 0\nFeatures : fp asimd bf16\n", torch.bfloat16),
        ("", torch.float32),
    ],
)
def test_auto_is_what_the_cpu_has_instructions_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpuinfo: str, dtype: torch.dtype
) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(flags, "CPUINFO", tmp_path / "cpuinfo")
    assert choose_dtype("auto") == dtype


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), torch.float32), ((9, 0), torch.bfloat16)])
@pytest.mark.parametrize("flag", ["", " avx512_bf16"])
def test_auto_on_a_gpu_is_what_the_gpu_multiplies(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flag: str,
    capability: tuple[int, int],
    dtype: torch.dtype,
) -> None:
    (tmp_path / "cpuinfo").write_text(X86.format(flag))
    monkeypatch.setattr(flags, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    assert choose_dtype("auto", torch.device("cuda")) == dtype
    assert choose_dtype("auto") == (torch.bfloat16 if flag else torch.float32)


def test_a_dtype_by_name() -> None:
    assert choose_dtype("bfloat16") == torch.bfloat16
    assert dtype_name(torch.float32) == "float32"
    with pytest.raises(ValueError, match="expected a dtype out of auto, float32, bfloat16; got 'int8'"):
        choose_dtype("int8")
