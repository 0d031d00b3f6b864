"""What became of each candidate, a line each, so that a run that was killed tries nothing twice."""

import json
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trieline.common.folders import write_whole
from trieline.common.text import shortened

MADE = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tried:
    """One candidate."""

    instance_id: str
    package: str
    kind: str
    """`mutation`, `release` or `history`."""
    cause: str = MADE
    """Of the refusal; "": it is a task."""
    message: str = ""
    row: dict[str, Any] | None = None
    """Of the task."""


class TaskJournal:
    """Appended to by several threads."""

    def __init__(self, path: Path, checkouts: Path) -> None:
        """What the file holds counts, but for a last line that was cut off, and tasks without a checkout."""
        self._path = path
        self._lock = threading.Lock()
        self._tried: dict[str, Tried] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                tried = Tried(**json.loads(line))
            except (ValueError, TypeError):
                continue
            if tried.cause or (checkouts / tried.instance_id).is_dir():
                self._tried[tried.instance_id] = tried
        lines = (json.dumps(asdict(tried)) + "\n" for tried in self._tried.values())
        write_whole(path, "".join(lines).encode())

    def __contains__(self, instance_id: str) -> bool:
        return instance_id in self._tried

    def add(self, tried: Tried) -> None:
        """Keep one, on the disk before this returns. Raises OSError."""
        with self._lock, self._path.open("a") as file:
            file.write(json.dumps(asdict(tried)) + "\n")
            self._tried[tried.instance_id] = tried

    def tried(self, package: str | None = None, kind: str | None = None) -> list[Tried]:
        """Those of a package and kind, in the order of their ids."""
        with self._lock:
            found = list(self._tried.values())
        chosen = [t for t in found if package in (None, t.package) and kind in (None, t.kind)]
        return sorted(chosen, key=lambda t: t.instance_id)

    def made(self, package: str | None = None, kind: str | None = None) -> list[Tried]:
        """The tasks among them."""
        return [t for t in self.tried(package, kind) if not t.cause]


def summary(journal: TaskJournal, packages: Sequence[str], broken: dict[str, str]) -> dict[str, Any]:
    """Counts by package, kind and cause.

    Args:
        journal: of the run.
        packages: of its recipe, in order.
        broken: what else went wrong, by what it was about.
    """
    tried = journal.tried()
    return {
        "tasks": sum(not t.cause for t in tried),
        "candidates": len(tried),
        "packages": {
            name: dict(sorted(Counter(t.kind for t in journal.made(name)).items())) for name in packages
        },
        "kinds": dict(sorted(Counter(t.kind for t in tried if not t.cause).items())),
        "refused": dict(sorted(Counter(t.cause for t in tried if t.cause).items())),
        "broken": {name: shortened(said, 500) for name, said in sorted(broken.items())},
    }


def summary_text(found: dict[str, Any]) -> str:
    """The same for people, in Markdown."""
    kinds = list(found["kinds"])
    lines = [f"{found['tasks']} tasks of {found['candidates']} candidates", ""]
    lines += ["| package | " + " | ".join([*kinds, "all"]) + " |", "|---" * (len(kinds) + 2) + "|"]
    for name, counts in found["packages"].items():
        numbers = [counts.get(kind, 0) for kind in kinds]
        lines.append(f"| {name} | " + " | ".join(map(str, [*numbers, sum(numbers)])) + " |")
    if found["refused"]:
        lines += ["", "| refused because | candidates |", "|---|---|"]
        lines += [f"| {cause} | {count} |" for cause, count in found["refused"].items()]
    if found["broken"]:
        lines += ["", "Broken:", *(f"- {name}: {said}" for name, said in found["broken"].items())]
    return "\n".join(lines) + "\n"
