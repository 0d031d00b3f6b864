"""Small git repositories for tests, away from any configuration of the machine."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from trieline.envs.swe.patches import Patch

Tree = Mapping[str, tuple[bytes, bool]]
"""By path: the content, and whether it is executable."""

_ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@b",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@b",
}


class Repository:
    """A repository of one commit."""

    def __init__(self, folder: Path, tree: Tree) -> None:
        self.folder = folder
        folder.mkdir()
        self.git("init", "-q")
        self.git("config", "core.autocrlf", "false")
        self.write(tree)
        self.git("add", "-A", "-f")
        self.git("commit", "-q", "--allow-empty", "-m", "base")

    def git(self, *arguments: str, data: bytes = b"", check: bool = True) -> bytes:
        """What git prints."""
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.folder,
            env=_ENVIRONMENT,
            input=data,
            capture_output=True,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(done.stderr.decode(errors="replace"))
        return done.stdout

    def write(self, tree: Tree) -> None:
        """Make the work tree be `tree`."""
        for path in self.folder.iterdir():
            if path.name != ".git":
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        for name, (content, executable) in tree.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(0o755 if executable else 0o644)

    def diff(self, *options: str) -> bytes:
        """From the commit to the work tree."""
        self.git("add", "-A", "-f")
        return self.git("diff", "--cached", "HEAD", *options)

    def tree(self) -> str:
        """The hash of the work tree."""
        self.git("add", "-A", "-f")
        return self.git("write-tree").decode().strip()

    def reset(self) -> None:
        """Back to the commit."""
        self.git("reset", "-q", "--hard", "HEAD")
        self.git("clean", "-q", "-f", "-d", "-x")

    def apply(self, content: bytes) -> bool:
        """Whether git applies it to the work tree."""
        done = subprocess.run(
            ["git", "apply", "-"], cwd=self.folder, env=_ENVIRONMENT, input=content, capture_output=True
        )
        return done.returncode == 0

    def applied(self, patch: Patch) -> str | None:
        """The tree that comes of the commit by the first form that git takes; None: it takes none."""
        for content in patch.contents:
            self.reset()
            if self.apply(content):
                return self.tree()
        return None
