"""An agent's workspace has no past, and what it changed is taken whatever it did to git."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.envs.swe.repositories import Repository, Tree
from trieline.envs.errors import TaskError
from trieline.envs.sandbox import Sandbox, SandboxLimits, SandboxSpec, open_sandbox
from trieline.envs.sandbox.bubblewrap import give
from trieline.envs.swe.history import Changes, changes_in, hide_history
from trieline.envs.swe.patches import checked_patch

LIMITS = SandboxLimits(
    wall_seconds=60.0, memory_bytes=1024**3, pids=256, output_bytes=256 * 1024, disk_bytes=64 * 2**20
)
GOLD = b"answer = 42  # the gold patch\n"
TREE: Tree = {
    "answer.py": (b"answer = 41\n", False),
    "run.sh": (b"#!/bin/sh\necho ran\n", True),
    "data/table.bin": (bytes(range(256)), False),
    "data/dos.txt": (b"one\r\ntwo\r\n", False),
    "odd name\n\xc3\xa9\"'.txt".encode().decode("latin-1"): (b"odd\n", False),
    "kept.log": (b"tracked, though ignored\n", False),
    ".gitattributes": (b"*.txt text eol=lf\n", False),
    ".gitignore": (b"*.log\nbuild/\n", False),
}
GIT = "git -c user.name=a -c user.email=a@b"


def make_repository(folder: Path) -> Repository:
    """At the base; what mends it is in every place in which git keeps things."""
    repository = Repository(folder, TREE)

    def sh(line: str) -> None:
        subprocess.run(line, shell=True, cwd=folder, check=True, capture_output=True)

    (folder / "answer.py").write_bytes(GOLD)
    sh(f"{GIT} commit -q -a -m 'the gold patch'; git branch later-branch")
    sh(f"{GIT} tag -a later -m 'the gold patch'")
    sh(f"git update-ref refs/remotes/origin/main HEAD; {GIT} notes add -m 'the gold patch' HEAD; git gc -q")
    sh(f"git worktree add -q --detach {folder}-worktree later-branch; git reset -q --hard HEAD~1")
    sh(f"sed -i 's/41/42 # the gold patch, stashed/' answer.py; {GIT} stash -q")
    sh("echo '# the gold patch' | git hash-object -w --stdin; echo 'the gold patch' > .git/description")
    sh("mkdir vendor && cd vendor && git init -q . && echo 'the gold patch' > x && git add x")
    sh(f"cd vendor && {GIT} commit -q -m 'the gold patch' && echo other > x && {GIT} commit -q -a -m other")
    sh("mkdir build && echo made > build/out")
    return repository


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    made = make_repository(tmp_path_factory.mktemp("history") / "repository")
    give(made.folder)
    return made


def opened(repository: Repository) -> Sandbox:
    spec = SandboxSpec(workdir="/testbed", checkout=str(repository.folder))
    return open_sandbox("bubblewrap", LIMITS, spec)


@pytest.fixture(scope="module")
def clean(repository: Repository) -> Iterator[Sandbox]:
    """Never anybody's, and used again: taking changes leaves it as it was."""
    sandbox = opened(repository)
    yield sandbox
    assert sh(sandbox, "ls -A; cat .git/HEAD").count(".trieline") == 0
    sandbox.close()


@pytest.fixture
def agents(repository: Repository) -> Iterator[tuple[Sandbox, str]]:
    """A sandbox as an agent has it, and its base."""
    sandbox = opened(repository)
    yield sandbox, hide_history(sandbox)
    sandbox.close()


def sh(sandbox: Sandbox, line: str) -> str:
    done = sandbox.exec(["bash", "-c", line])
    assert done.exit_code == 0, done
    return done.stdout.decode("utf-8", "surrogateescape")


LOOKS = {
    "git rev-list --all | wc -l": "1\n",
    "git for-each-ref --format='%(refname)'": "refs/heads/main\n",
    "git stash list; git reflog; git notes; git fsck --unreachable; git status --short": "",
    "git worktree list | wc -l": "1\n",
    "cd .git && find . -type f -not -path './objects/pack/*' | sort": "./HEAD\n./config\n./index\n"
    "./info/attributes\n./info/exclude\n./refs/heads/main\n",
    "cd .git/objects; find . -type f | sort": "./pack/PACK.idx\n./pack/PACK.pack\n",
    "find . -name .git": "./.git\n",
    "git cat-file --batch-all-objects --batch-check | grep -c commit": "1\n",
    "(git cat-file --batch-all-objects --batch; grep -r . . /tmp; git log -p) | grep -ac 'gold patch'": "0\n",
    "ls /proc/1/cwd/ /proc/1/root/ 2>&1 | grep -c denied": "2\n",
}


def test_nothing_of_the_past_is_there(agents: tuple[Sandbox, str]) -> None:
    sandbox, base = agents
    for look, expected in LOOKS.items():
        said = sh(sandbox, f"{look}; true")
        assert re.sub("pack-[0-9a-f]+", "PACK", said) == expected, look
    assert sh(sandbox, "git rev-parse HEAD") == f"{base}\n"


def test_without_hiding_it_would_be_found(clean: Sandbox) -> None:
    found = sh(clean, "(git log -p --all; git cat-file --batch-all-objects --batch) | grep -ac 'gold patch'")
    assert int(found) > 5
    assert (
        sh(clean, "git stash list | wc -l; git worktree list | wc -l; git tag; ls vendor/.git | wc -l")[:2]
        == "1\n"
    )


def test_objects_in_other_places_are_not_there_either(tmp_path: Path) -> None:
    folder = tmp_path / "checkout"
    make_repository(folder)
    apart = """
        mkdir -p build/one/info build/two; mv .git/objects/* build/two/; mkdir -p .git/objects/info
        mv .git build/git; echo 'gitdir: build/git' > .git
        echo ../../one > build/git/objects/info/alternates; echo ../two > build/one/info/alternates
        test $(git rev-list --all --count) -gt 3"""
    subprocess.run(apart, shell=True, cwd=folder, check=True, capture_output=True)
    give(folder)
    spec = SandboxSpec(workdir="/testbed", checkout=str(folder))
    sandbox = open_sandbox("bubblewrap", LIMITS, spec)
    try:
        base = hide_history(sandbox)
        said = sh(sandbox, "git rev-parse HEAD; git fsck; git rev-list --all --count; ls build")
        assert said == f"{base}\n1\nout\n"
    finally:
        sandbox.close()


def test_what_tests_import_stays(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "repository", {"a.py": (b"a = 1\n", False)})
    packages = repository.folder / ".git/packages"
    packages.mkdir()
    (packages / "helper.py").write_bytes(b"")
    give(repository.folder)
    sandbox = opened(repository)
    hide_history(sandbox)
    assert sh(sandbox, "ls .git/packages; git status --short") == "helper.py\n"
    sandbox.close()


def test_an_agents_own_git_works(agents: tuple[Sandbox, str]) -> None:
    sandbox, _ = agents
    assert sh(sandbox, "git ls-files -z | tr '\\0' '\\n' | grep -c .") == f"{len(TREE) + 1 + 1}\n"
    sh(sandbox, "echo 43 > answer.py; git commit -q -a -m mine; git stash list; git checkout -q HEAD~1")
    assert sh(sandbox, "cat answer.py; ./run.sh; cat build/out") == "answer = 41\nran\nmade\n"


CHANGE = r"""
sed -i 's/41/43/' answer.py
chmod a-x run.sh; chmod a+x answer.py
printf 'one\r\nthree\r\n' > data/dos.txt; printf '\0\1\2' >> data/table.bin; printf '\0\377' > new.bin
rm kept.log; mkdir -p a/b; echo new > "$(printf 'a/b/new \303\244\n\"\t.py')"
printf 'no end' > "$(printf 'bad \377')"
mkdir -p __pycache__ build; echo x > __pycache__/y.pyc; echo x > build/more
"""
CHANGED = {
    *('a/b/new \xe4\n"\t.py', "answer.py", "bad \udcff", "data/dos.txt", "data/table.bin", "kept.log"),
    *("new.bin", "run.sh"),
}


@pytest.fixture(scope="module")
def taken(repository: Repository, clean: Sandbox) -> bytes:
    """The patch of CHANGE alone; applied to a clean workspace, it makes the same files."""
    sandbox, other = opened(repository), opened(repository)
    try:
        base = hide_history(sandbox)
        sh(sandbox, CHANGE)
        changes = changes_in(sandbox, clean, base)
        assert (changes.problem, changes.notes) == ("", "")
        assert {file.new_path or file.old_path for file in checked_patch(changes.patch).files} == CHANGED
        done = other.exec(["git", "-c", "safe.directory=*", "apply", "-"], stdin=changes.patch)
        assert done.exit_code == 0, done
        look = (
            "ls kept.log 2>&1; stat -c %A run.sh answer.py; md5sum data/* new.bin a/b/* bad*; cat answer.py"
        )
        assert sh(other, look) == sh(sandbox, look)
        return changes.patch
    finally:
        sandbox.close()
        other.close()


HIDES = {
    "commits and rewrites": """
        git add -A; git commit -q --amend -m x; git gc -q; git reflog expire --all --expire=now
        git checkout -q --detach; git update-index --assume-unchanged answer.py; git rm -q --cached run.sh
        git replace HEAD $(echo x | git commit-tree HEAD^{tree}); git rev-parse HEAD > .git/shallow""",
    "deletes .git": "rm -rf .git",
    "a file for .git": "rm -rf .git; echo 'gitdir: /nowhere' > .git",
    "a link for .git": "rm -rf .git; ln -s data .git",
    "bends git": """
        mkdir -p .git/hooks; echo 'rm -rf /testbed/*' | tee .git/hooks/{pre-commit,post-index-change}
        chmod +x .git/hooks/*; git config core.hooksPath .git/hooks
        git config core.fsmonitor 'touch /tmp/ran; false'
        git config filter.x.clean 'touch /tmp/ran; echo bent'
        git config diff.x.textconv 'touch /tmp/ran; echo'; git config diff.external 'touch /tmp/ran'
        echo '* filter=x diff=x ident text eol=crlf working-tree-encoding=UTF-16' > .git/info/attributes
        cp .git/info/attributes /tmp/attributes
        printf '[core]\\nattributesFile=/tmp/attributes\\nexcludesFile=/tmp/attributes\\n' > /tmp/.gitconfig
        git config core.worktree /tmp; git config core.bare true
        mkdir -p /tmp/bin; printf '#!/bin/sh\\nexit 0\\n' | tee /tmp/bin/git /tmp/bin/find
        chmod +x /tmp/bin/*
        echo 'PATH=/tmp/bin:$PATH' | tee /tmp/.bashrc /tmp/.profile /tmp/.bash_profile""",
    "leaves odd things": """
        git init -q a; (cd a; git add -A; git -c user.name=a -c user.email=b commit -q -m x)
        ln -s /etc/passwd passwd; ln -s . a/self; ln -s nowhere .gitmodules; mkfifo pipe
        rm -r vendor; chmod 0 data/table.bin a; chmod 555 data
        (sleep 5; echo 44 > answer.py) & disown; setsid sleep 86317 &""",
}


@pytest.mark.parametrize("name", HIDES)
def test_what_was_changed_is_taken(
    clean: Sandbox, agents: tuple[Sandbox, str], taken: bytes, name: str
) -> None:
    sandbox, base = agents
    sh(sandbox, CHANGE)
    sandbox.exec(["bash", "-c", HIDES[name]])
    changes = changes_in(sandbox, clean, base)
    assert (changes.problem, changes.patch) == ("", taken)
    assert ("a new link is left out: passwd" in changes.notes) == (name == "leaves odd things")
    assert sh(sandbox, "ls /tmp/ran 2>/dev/null; true") == ""


def test_nothing_changed_is_an_empty_patch(clean: Sandbox, agents: tuple[Sandbox, str]) -> None:
    sandbox, base = agents
    sh(sandbox, "touch answer.py; mkdir empty; echo x > a.log; git commit -q --allow-empty -m x")
    assert changes_in(sandbox, clean, base) == Changes()


def test_everything_deleted_is_a_patch(clean: Sandbox, agents: tuple[Sandbox, str]) -> None:
    sandbox, base = agents
    sh(sandbox, "find . -mindepth 1 -delete")
    files = checked_patch(changes_in(sandbox, clean, base).patch).files
    assert {file.new_path for file in files} == {None}
    assert len(files) == len(TREE)


def test_a_full_disk_is_the_agents_own_doing(clean: Sandbox, agents: tuple[Sandbox, str]) -> None:
    sandbox, base = agents
    sandbox.exec(["bash", "-c", "head -c 100M /dev/zero > /tmp/full; head -c 9M /dev/zero > rest"])
    assert "No space left" in changes_in(sandbox, clean, base).problem


def test_other_files_than_at_the_start_are_an_error(agents: tuple[Sandbox, str]) -> None:
    with pytest.raises(TaskError, match=r"expected the files of the repository as when the episode began"):
        changes_in(agents[0], agents[0], "0" * 40)


def test_what_is_no_repository_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x\n")
    give(tmp_path)
    sandbox = open_sandbox("bubblewrap", LIMITS, SandboxSpec(workdir="/testbed", checkout=str(tmp_path)))
    try:
        with pytest.raises(TaskError, match=r"expected a git repository at /testbed, got status"):
            hide_history(sandbox)
    finally:
        sandbox.close()
