"""Where a data set is: a file, a folder, or a name on the Hugging Face hub."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from trieline.common.text import shortened
from trieline.envs.errors import DataError

HUB_NAME = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
_CHUNK_BYTES = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSource:
    """What `data` and its companions in a configuration name."""

    data: str
    test_data: str | None = None
    subset: str | None = None
    train_split: str = "train"
    test_split: str = "test"
    sha256: str | None = None
    revision: str | None = None

    def place(self) -> Path:
        """The file or folder, fetched if it is a name on the hub, and held against its SHA-256.

        Raises:
            DataError: there is none, or it is another than was expected.
        """
        path = Path(self.data).expanduser()
        if not path.exists():
            path = _fetched(self.data, self.revision)
        if self.subset is not None:
            path = path / self.subset
            if not path.is_dir():
                msg = f"expected the folder of subset {self.subset!r} in {self.data}, found none"
                raise DataError(msg)
        if self.sha256 is not None:
            _expect_sha256(path, self.sha256)
        return path.absolute()

    def test_place(self) -> Path | None:
        """The file of what is held out, where it is one of its own. Raises DataError if there is none."""
        if self.test_data is None:
            return None
        path = Path(self.test_data).expanduser()
        if not path.exists():
            msg = f"test_data: expected a file or folder, found no {self.test_data}"
            raise DataError(msg)
        return path.absolute()


def _fetched(name: str, revision: str | None) -> Path:
    if not HUB_NAME.fullmatch(name):
        msg = (
            f"data: expected a file, the folder of a data set or its name 'owner/name' on the Hugging Face "
            f"hub, found no {name}"
        )
        raise DataError(msg)
    import huggingface_hub
    import huggingface_hub.errors

    try:
        return Path(huggingface_hub.snapshot_download(name, repo_type="dataset", revision=revision))
    except (huggingface_hub.errors.HfHubHTTPError, OSError, ValueError) as error:
        msg = (
            f"data: found no file or folder {name}, and it can't be had from the Hugging Face hub: "
            f"{shortened(error, 300)}"
        )
        raise DataError(msg) from error


def _expect_sha256(path: Path, expected: str) -> None:
    if not path.is_file():
        msg = f"sha256: expected the data to be one file, got {path}"
        raise DataError(msg)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    if digest.hexdigest() != expected.lower():
        msg = f"expected {path} with the SHA-256 {expected}, got {digest.hexdigest()}"
        raise DataError(msg)
