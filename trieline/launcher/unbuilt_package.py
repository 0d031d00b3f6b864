"""What pip starts in place of Python when it asks a source distribution for its metadata: no code of it runs.

pip prepares metadata of whatever it downloads, by running the build backend that the distribution names,
which can be a program in the distribution itself. Here the answer is taken from the file PKG-INFO, which
every source distribution has, and every other request is refused. The protocol is that of pyproject-hooks,
which pip uses for PEP 517: a name of a hook, and a folder with `input.json`, to which `output.json` is
written.
"""

import json
import sys
from pathlib import Path

PREPARE = "prepare_metadata_for_build_wheel"
REQUIRES = "get_requires_for_build_wheel"


def answer(hook: str, arguments: dict[str, str], source: Path) -> object:
    """What the hook returns for the distribution unpacked in `source`."""
    if hook == REQUIRES:
        return []
    if hook != PREPARE:
        msg = f"expected {PREPARE}, got {hook[:100]!r}: nothing is built here"
        raise SystemExit(msg)
    fields = (source / "PKG-INFO").read_bytes()
    folder = Path(arguments["metadata_directory"], f"{_named(fields)}.dist-info")
    folder.mkdir()
    (folder / "METADATA").write_bytes(fields)
    return folder.name


def _named(fields: bytes) -> str:
    """`name-version` as a wheel spells it."""
    found: dict[str, str] = {}
    for line in fields.decode("utf-8", "replace").split("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip().lower(), value.strip())
    return "-".join(found[key].replace("-", "_").replace("/", "_") for key in ("name", "version"))


def main() -> None:
    """Arguments: pip's own program for hooks, which is not run; the hook; the folder."""
    _, hook, folder = sys.argv[1:]
    arguments = json.loads(Path(folder, "input.json").read_text())["kwargs"]
    returned = {"unsupported": False, "return_val": answer(hook, arguments, Path.cwd()), "warnings": []}
    Path(folder, "output.json").write_text(json.dumps(returned))


if __name__ == "__main__":
    main()
