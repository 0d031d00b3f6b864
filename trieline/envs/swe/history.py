"""A repository without its past, and what an agent has changed in it.

The *base* of a task is a repository of one commit: the files of a clean workspace as they are, without those
that its git ignores. It is made anew wherever it is needed, with the same hash each time, and is never kept
where an agent could change it:

* an agent's workspace has it in place of its own `.git`, so that no later or earlier commit, reflog, stash or
  loose object is there to be found, and neither are those of repositories within the repository;
* what the agent has changed is taken with the base of the clean workspace in which it is graded: the agent's
  own `.git`, whatever became of it, is not looked at, and neither are its `.gitattributes`.

The programs that take it are the agent's where its sandbox lets it replace them. They can give nothing worse
than what an agent may write itself: the patch is a stranger's, and is read as one.
"""

import secrets
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from trieline.envs.errors import TaskError
from trieline.envs.sandbox import ExecResult, Sandbox
from trieline.envs.sandbox.archives import new_spool
from trieline.envs.swe.git import GIT, NO_CONFIGURATION, PACKAGES, identity, problem_of
from trieline.envs.swe.patches import DEFAULT_LIMITS

HISTORY_SECONDS = 300.0
"""For one script on a repository: it reads all files."""
MOST_BASE = 2**30
"""Bytes of a base, which is compressed."""
AGENT: Final = ("agent", "agent@localhost")
"""Name and address of who commits in a workspace."""

_IDENTITY: Final = identity(*AGENT, "2000-01-01T00:00:00Z")
_ATTRIBUTES = "* -text !eol !filter !ident !working-tree-encoding !diff !merge"
"""Files as they are: these win over a `.gitattributes`."""
_EXCLUDED = ("__pycache__/", "*.pyc", ".pytest_cache/", "/.trieline-*/")
"""What running tests leaves, and the base itself, where it is not yet or no more `.git`."""

# $1: where the base is made; then git with its options.
_MAKE_BASE = f"""
set -eu
base=$1; shift
objects=$(cd "$("$@" --git-dir=.git rev-parse --git-path objects)" && pwd)
tree=$("$@" --git-dir=.git rev-parse 'HEAD^{{tree}}')
mkdir -p "$base/objects/pack" "$base/objects/info" "$base/refs/heads" "$base/info"
echo 'ref: refs/heads/main' > "$base/HEAD"
printf '[core]\\n\\trepositoryformatversion = 0\\n\\tbare = false\\n' > "$base/config"
printf '[user]\\n\\tname = %s\\n\\temail = %s\\n' {" ".join(AGENT)} >> "$base/config"
echo '{_ATTRIBUTES}' > "$base/info/attributes"
printf '%s\\n' {" ".join(f"'{pattern}'" for pattern in _EXCLUDED)} > "$base/info/exclude"
echo "$objects" > "$base/objects/info/alternates"
set -- "$@" --git-dir="$base" --work-tree=.
"$@" read-tree "$tree"
"$@" add -A
commit=$(echo 'The repository as it is' | "$@" commit-tree "$("$@" write-tree)")
"$@" -c core.logAllRefUpdates=false update-ref refs/heads/main "$commit"
"$@" -c repack.writeBitmaps=false repack -a -d -n -q
rm "$base/objects/info/alternates"
echo "$commit"
"""
_REMOVE_INNER = "find . -mindepth 2 -name .git -prune -exec rm -rf {} +"
# $1: the base; then git with its options. Objects may lie in other places than `.git`, and borrow from there.
_HIDE = f"""
set -eu
base=$1; shift
remove_objects() {{
    local borrowed=
    [ ! -f "$1/info/alternates" ] || borrowed=$(cd "$1" && while IFS= read -r place; do
        [ ! -d "$place" ] || (cd "$place" && pwd)
    done < info/alternates)
    rm -rf "$1"
    while IFS= read -r place; do
        [ -z "$place" ] || remove_objects "$place"
    done <<< "$borrowed"
}}
folder=$(cd "$("$@" --git-dir=.git rev-parse --git-common-dir)" && pwd)
remove_objects "$(cd "$("$@" --git-dir=.git rev-parse --git-path objects)" && pwd)"
{_REMOVE_INNER}
if [ -d {PACKAGES} ] && [ ! -L {PACKAGES} ]; then mv {PACKAGES} "$base/packages"; fi
rm -rf "$folder" .git
mv "$base" .git
"""
# $1: the base; then git with its options. What can't be added is said on stderr, and the others are.
_TAKE = f"""
set -u
base=$1; shift
set -- "$@" --git-dir="$base" --work-tree=.
find . -type d ! -perm -700 -exec chmod u+rwx {{}} \\; -o -type f ! -perm -400 -exec chmod u+r {{}} \\;
{_REMOVE_INNER}
"$@" ls-files -z --others --exclude-standard | while IFS= read -r -d '' path; do
    if [ -L "$path" ]; then rm -f -- "$path" && echo "a new link is left out: $path" >&2; fi
done
"$@" add -A --ignore-errors
"$@" diff --cached --binary --full-index --no-renames --no-ext-diff --no-textconv --no-color \\
    --ignore-submodules=all --src-prefix=a/ --dst-prefix=b/ --output="$base/patch" HEAD
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """What an agent has changed in its workspace."""

    patch: bytes = b""
    """A git diff; empty if there is none."""
    problem: str = ""
    """Why it can't be had, which is the agent's own doing."""
    notes: str = ""
    """What of it was left out."""


def hide_history(sandbox: Sandbox) -> str:
    """Put the base in place of the repository's own `.git`, in a clean workspace. Returns its commit.

    Raises:
        SandboxError: the sandbox failed.
        TaskError: the work folder is no repository, or its history can't be removed.
    """
    folder = _new_name()
    commit = _make_base(sandbox, folder)
    if problem := problem_of(_script(sandbox, _HIDE, folder)):
        msg = f"expected a repository whose history can be removed, got {problem}"
        raise TaskError(msg)
    return commit


def changes_in(sandbox: Sandbox, clean: Sandbox, base: str) -> Changes:
    """What an agent has changed. Its sandbox is of use to nobody afterwards, the clean one is left as it was.

    Args:
        sandbox: the agent's, in which nothing runs.
        clean: a workspace of the same task, in which nothing ran.
        base: what `hide_history` gave for the agent's.

    Raises:
        SandboxError: a sandbox failed.
        TaskError: the clean one has other files than that of the agent once had.
    """
    folder = _new_name()
    if (commit := _make_base(clean, folder)) != base:
        msg = f"expected the files of the repository as when the episode began ({base}), got {commit}"
        raise TaskError(msg)
    with new_spool() as archive:
        try:
            clean.get(archive, folder, max_bytes=MOST_BASE)
        except OSError as error:
            msg = f"expected a repository of at most {MOST_BASE:,} bytes, got {error}"
            raise TaskError(msg) from error
        clean.exec(["rm", "-rf", folder], wall_seconds=HISTORY_SECONDS)
        archive.seek(0)
        try:
            sandbox.put(archive, folder)
            taken = _script(sandbox, _TAKE, folder)
            if problem := problem_of(taken):
                return Changes(problem=problem)
            patch = sandbox.read(f"{folder}/patch", max_bytes=DEFAULT_LIMITS.bytes)
        except OSError as error:  # the disk is full, the work folder is gone, the patch is too large
            return Changes(problem=error.strerror or str(error))
    return Changes(patch=patch, notes=taken.stderr.decode(errors="replace").strip())


def _new_name() -> str:
    """Of a folder that nobody has made before."""
    return f".trieline-{secrets.token_hex(8)}"


def _make_base(sandbox: Sandbox, folder: str) -> str:
    made = _script(sandbox, _MAKE_BASE, folder)
    if problem := problem_of(made):
        msg = f"expected a git repository at {PurePosixPath(sandbox.workdir)}, got {problem}"
        raise TaskError(msg)
    return made.stdout.decode().strip()


def _script(sandbox: Sandbox, script: str, folder: str) -> ExecResult:
    return sandbox.exec(
        ["bash", "-c", script, "bash", folder, *GIT],
        wall_seconds=HISTORY_SECONDS,
        environment={**NO_CONFIGURATION, **_IDENTITY},
    )
