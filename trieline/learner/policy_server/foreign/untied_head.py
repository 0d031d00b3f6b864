"""A model with tied head as a folder in which head and embedding are two tensors of the same values.

vLLM on a CPU packs the head when it starts, and packs a head that is tied to the embedding never again: after
new weights it would go on with the old head (seen with 0.32). A head of its own is read and packed anew.
"""

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from trieline.learner.errors import CheckpointError

HEAD = "lm_head.weight"
HEAD_FILE = "lm_head.safetensors"
EMBEDDING = "embed_tokens.weight"
INDEX = "model.safetensors.index.json"


def ties_head(folder: Path) -> bool:
    """Whether the model's head is its embedding."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("tie_word_embeddings") or config.get("text_config", {}).get("tie_word_embeddings"):
        return True
    return not any(HEAD in _names(file) for file in folder.glob("*.safetensors"))


def untied_folder(folder: Path, target: Path) -> Path:
    """`target` with links to the files of the model in `folder`, and a head of its own."""
    target.mkdir(parents=True)
    for file in folder.iterdir():
        if file.name not in ("config.json", INDEX):
            (target / file.name).symlink_to(file.resolve())
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for part in (config, config.get("text_config", {})):
        part["tie_word_embeddings"] = False
    (target / "config.json").write_text(json.dumps(config), encoding="utf-8")
    files = [file for file in sorted(folder.glob("*.safetensors")) if _embedding(file)]
    if not files:
        msg = f"expected {EMBEDDING} in the files of {folder}, found none"
        raise CheckpointError(msg)
    write_head(files[0], target)
    if (folder / INDEX).is_file():
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        index["weight_map"][HEAD] = HEAD_FILE
        (target / INDEX).write_text(json.dumps(index), encoding="utf-8")
    return target


def write_head(weights: Path, folder: Path) -> None:
    """Write the embedding of a file of weights into `folder`, as the head. Raises CheckpointError."""
    name = _embedding(weights)
    if not name:
        msg = f"expected {EMBEDDING} in {weights}, found none"
        raise CheckpointError(msg)
    with safe_open(weights, framework="pt") as file:
        save_file({HEAD: file.get_tensor(name)}, folder / HEAD_FILE, metadata={"format": "pt"})


def _names(file: Path) -> list[str]:
    with safe_open(file, framework="pt") as tensors:
        return list(tensors.keys())


def _embedding(file: Path) -> str:
    return next((name for name in _names(file) if name.endswith(EMBEDDING)), "")
