import base64
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.wire.key_folders import line_of, make_keys
from trieline.command_line import main
from trieline.wire.addresses import is_elsewhere, is_this_machine
from trieline.wire.errors import KeysError
from trieline.wire.keys import ALLOWED, PRIVATE, KeyFolder, Machine, machine_of


def test_a_pair_is_made_once_for_its_user_alone(tmp_path: Path) -> None:
    folder = make_keys(tmp_path / "deep" / "keys", "Learner.Example")
    own = folder.own()
    assert own.name == "learner.example"
    assert len(base64.b64decode(own.public)) == len(own.secret) == 32
    assert stat.S_IMODE((folder.path / PRIVATE).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    with pytest.raises(KeysError, match=r"expected no keys of this machine in .* yet"):
        folder.make("another")
    assert folder.own() == own


def test_the_umask_opens_no_key_file(tmp_path: Path) -> None:
    """Many systems give their users one of 002."""
    before = os.umask(0o002)
    try:
        folder = make_keys(tmp_path / "keys", "learner")
        other = line_of(make_keys(tmp_path / "other", "other"))
        folder.allow(other)
    finally:
        os.umask(before)
    assert folder.own().name == "learner"
    assert folder.allowed() == [other]


def test_what_others_can_read_or_write_is_refused(tmp_path: Path) -> None:
    folder = make_keys(tmp_path / "keys", "learner")
    (folder.path / PRIVATE).chmod(0o640)
    with pytest.raises(KeysError, match=r"private to be closed to others, got mode 640: chmod 600"):
        folder.own()
    (folder.path / PRIVATE).chmod(0o600)
    folder.path.chmod(0o755)
    with pytest.raises(KeysError, match="got one of mode 755 in place of one of mode 700"):
        folder.own()
    folder.path.chmod(0o700)
    folder.allow(line_of(make_keys(tmp_path / "other", "other")))
    (folder.path / ALLOWED).chmod(0o666)
    with pytest.raises(KeysError, match="allowed to be closed to others"):
        folder.allowed()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_is_another_users_is_refused(tmp_path: Path) -> None:
    folder = make_keys(tmp_path / "keys", "learner")
    os.chown(folder.path / PRIVATE, 12345, 12345)
    with pytest.raises(KeysError, match="to be of user 0, got one of user 12345"):
        folder.own()
    os.chown(folder.path, 12345, 12345)
    with pytest.raises(KeysError, match="got a folder of user 12345"):
        folder.own()


def test_a_link_in_place_of_the_private_key_is_not_followed(tmp_path: Path) -> None:
    folder = make_keys(tmp_path / "keys", "learner")
    (folder.path / PRIVATE).rename(tmp_path / "elsewhere")
    (folder.path / PRIVATE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeysError, match=r"can't read .*private"):
        folder.own()


def test_a_damaged_private_key_is_not_repeated(tmp_path: Path) -> None:
    folder = make_keys(tmp_path / "keys", "learner")
    text = (folder.path / PRIVATE).read_text()
    (folder.path / PRIVATE).write_text(text[1:])
    with pytest.raises(KeysError, match=r"expected a key of 44 characters in .*private, got 43") as caught:
        folder.own()
    assert text[1:20] not in str(caught.value)


def test_allowed_machines_are_let_in_and_known_by_their_names(tmp_path: Path) -> None:
    folder, other = make_keys(tmp_path / "keys", "learner"), make_keys(tmp_path / "other", "actor")
    line = line_of(other, "actor.example", "fe80::1%eth0")
    assert not folder.lets_in(line.key)
    with pytest.raises(KeysError, match=r"no key is known for actor.example .*keys allow KEY actor.example"):
        folder.key_of("actor.example")
    assert folder.allow(line)
    assert not folder.allow(line), "it is known"
    assert folder.allow(line_of(other, "10.9.8.7")), "under one more name"
    assert folder.lets_in(line.key)
    assert folder.lets_in(folder.own().public), "a machine's own programs"
    for name in ("Actor.Example", "fe80::1%eth0", "10.9.8.7"):
        assert folder.key_of(name) == line.key
    assert folder.key_of("127.0.0.1") == folder.own().public
    assert folder.remove("actor.example") == [line]
    assert not (set(folder.allowed()) & {line})


def test_machines_that_are_allowed_at_the_same_time_are_all_let_in(tmp_path: Path) -> None:
    was_read, goes_on = threading.Event(), threading.Event()

    class Slow(KeyFolder):
        def allowed(self) -> list[Machine]:
            known = super().allowed()
            was_read.set()
            assert goes_on.wait(30.0)
            return known

    folder = make_keys(tmp_path / "keys", "learner")
    lines = [line_of(make_keys(tmp_path / name, name)) for name in ("one", "two")]
    both = [
        threading.Thread(target=keys.allow, args=(line,))
        for keys, line in zip((Slow(folder.path), folder), lines, strict=True)
    ]
    both[0].start()
    assert was_read.wait(30.0)
    both[1].start()
    # Time enough to come in between, if it may.
    both[1].join(0.1)
    goes_on.set()
    for one in both:
        one.join(30.0)
    assert folder.allowed() == lines


def test_a_name_has_one_key(tmp_path: Path) -> None:
    folder = make_keys(tmp_path / "keys", "learner")
    first, second = (line_of(make_keys(tmp_path / name, name), "actor") for name in ("one", "two"))
    folder.allow(first)
    with pytest.raises(KeysError, match=f"got actor, whose key is {first.key.replace('+', '.')}") as caught:
        folder.allow(second)
    assert "keys remove actor" in str(caught.value)
    folder.remove(first.key)
    assert folder.allow(second)
    assert folder.allowed() == [second]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("short actor", "here: expected a key of 44 characters, got 'short'"),
        ("A" * 44, "expected a key of 44 characters"),
        (f"{'A' * 43}= tcp://actor:1", "expected the name of a machine as it stands in an address"),
        (f"{'A' * 43}= \x1b[1m", "expected the name of a machine"),
    ],
)
def test_lines_that_say_nothing_are_named(line: str, complaint: str) -> None:
    with pytest.raises(KeysError, match=complaint):
        machine_of(line, where="here")


def test_a_damaged_list_is_named_by_its_line(tmp_path: Path) -> None:
    folder = make_keys(tmp_path / "keys", "learner")
    (folder.path / ALLOWED).write_text("# ours\n\nnonsense actor\n")
    with pytest.raises(KeysError, match=r"allowed, line 3: expected a key of 44 characters, got 'nonsense'"):
        folder.lets_in(f"{'A' * 43}=")


def test_addresses_of_this_machine() -> None:
    assert is_this_machine("127.0.0.1")
    assert is_this_machine("localhost")
    assert is_this_machine("0.0.0.0")
    assert not is_this_machine("192.0.2.1")  # of documentation
    assert not is_this_machine("no such name")
    assert is_elsewhere("tcp://192.0.2.1:7702")
    for here in ("tcp://127.0.0.1:7702", "tcp://0.0.0.0:7702", "ipc:///tmp/a"):
        assert not is_elsewhere(here)


def keys_command(*arguments: str, folder: Path, given: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trieline", "keys", *arguments, "--keys", str(folder)]
    return subprocess.run(command, input=given, capture_output=True, text=True, check=False)


def test_the_command_passes_lines_from_one_machine_to_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learner, actor = tmp_path / "learner", tmp_path / "actor"
    for folder in (learner, actor):
        assert main(["keys", "new", folder.name, "--keys", str(folder)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert main(["keys", "show", "--keys", str(learner)]) == 0
    line = capsys.readouterr().out
    assert line.strip() == shown[0]
    ran = keys_command("allow", "-", folder=actor, given=line)
    assert ran.returncode == 0, ran.stderr
    assert "is let in now" in ran.stderr
    assert [str(machine) for machine in KeyFolder(actor).allowed()] == [line.strip()]
    assert main(["keys", "list", "--keys", str(actor)]) == 0
    assert capsys.readouterr().out == line
    assert main(["keys", "remove", "learner", "--keys", str(actor)]) == 0
    assert KeyFolder(actor).allowed() == []


def test_the_command_says_what_it_wanted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "keys"
    for arguments, complaint in (
        (["show"], f"expected keys of this machine in {folder}, found none: `trieline keys new --keys"),
        (["allow", f"{'A' * 43}="], "found none"),
        (["new", "two words"], "expected the name of a machine as it stands in an address, got 'two words'"),
        (["new", "good"], ""),
        (["allow", "nonsense", "actor"], "expected a key of 44 characters, got 'nonsense'"),
        (["remove", "actor"], "(nobody is allowed), got 'actor'"),
    ):
        status = main(["keys", *arguments, "--keys", str(folder)])
        assert status == (2 if complaint else 0)
        assert complaint in capsys.readouterr().err
    assert KeyFolder(folder).allow(Machine(key=f"{'A' * 43}=", names=()))
