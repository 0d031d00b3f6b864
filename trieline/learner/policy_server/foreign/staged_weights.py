"""A version's safetensors file as the folder that an engine of others reads: one folder a version.

What is missing in such a file, an engine only warns of, and goes on with the old tensor: names and shapes are
compared with the model's own files first. Adapters are merged into the model's own weights.
"""

import json
import shutil
import struct
from pathlib import Path

from trieline.learner.errors import CheckpointError
from trieline.learner.keeping.weight_file import adapter_config, write_weights
from trieline.learner.policy_server.foreign.adapter_base import AdapterBase
from trieline.learner.policy_server.foreign.untied_head import write_head

FILE = "model.safetensors"
KEPT = 2
MAX_HEADER_BYTES = 64 * 1024 * 1024
Shapes = dict[str, tuple[int, ...]]


class StagedWeights:
    """Folders in one that belongs to this policy server."""

    def __init__(self, model_folder: Path, scratch: Path, shared: Path | None, base: AdapterBase) -> None:
        """`scratch`: for links to the learner's files. `shared`: where the files are copied to instead."""
        self.untied = False
        """Whether the engine reads a head of its own, though the model has none."""
        self._base = base
        self._model_folder = model_folder
        self._place = shared or scratch
        self._copies = shared is not None
        self._expected: Shapes | None = None
        self._staged: list[Path] = []
        self._closed = False

    def stage(self, weights: Path, name: str) -> Path:
        """The folder with these weights, called `name`.

        Raises:
            CheckpointError: they do not fit the model.
            OSError: they can't be read, or copied.
        """
        adapters = adapter_config(weights)
        if adapters is None:
            self._expect_fitting(weights)
        folder = self._place / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            self._fill(folder, weights, adapters)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._staged = [one for one in self._staged if one != folder] + [folder]
        while len(self._staged) > KEPT:
            shutil.rmtree(self._staged.pop(0), ignore_errors=True)
        if self._closed:
            self.close()
        return folder

    def _fill(self, folder: Path, weights: Path, adapters: str | None) -> None:
        target = folder / FILE
        if adapters is not None:
            write_weights(target, self._base.merged(weights, adapters))
        elif self._copies:
            shutil.copyfile(weights, target)
        else:
            target.symlink_to(weights.resolve())
        if self.untied:
            write_head(target, folder)

    def close(self) -> None:
        """Remove what is left, and what another thread is staging as soon as that is there. Idempotent."""
        self._closed = True
        while self._staged:
            shutil.rmtree(self._staged.pop(), ignore_errors=True)

    def _expect_fitting(self, weights: Path) -> None:
        if self._expected is None:
            files = sorted(self._model_folder.glob("*.safetensors"))
            self._expected = {name: shape for one in files for name, shape in read_shapes(one).items()}
        found = read_shapes(weights)
        # A head that is tied to the embedding may be left out, or be there twice.
        heads = {name for name in found.keys() ^ self._expected.keys() if name.endswith("lm_head.weight")}
        for kind, wrong in (
            ("lacks", self._expected.keys() - found.keys() - heads),
            ("has unknown", found.keys() - self._expected.keys() - heads),
            ("has misshaped", {n for n, shape in found.items() if self._expected.get(n, shape) != shape}),
        ):
            if wrong:
                more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
                msg = f"{weights} {kind} tensors: {', '.join(sorted(wrong)[:3])}{more}"
                raise CheckpointError(msg)


def read_shapes(path: Path) -> Shapes:
    """Of the tensors of a safetensors file, by name.

    Raises:
        CheckpointError: it is none.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > MAX_HEADER_BYTES:
                msg = f"{path}: expected a header of at most {MAX_HEADER_BYTES} bytes, got {length}"
                raise CheckpointError(msg)
            header = json.loads(file.read(length))
        return {
            name: tuple(int(size) for size in entry["shape"])
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"expected a safetensors file in {path}, got: {error}"
        raise CheckpointError(msg) from error
