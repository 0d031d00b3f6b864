"""`trieline keys`: this machine's keys, and those of the machines that it lets in."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trieline.wire.keys import KeyFolder, Machine


def add_verbs(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb of this module to the command."""
    keys = verbs.add_parser("keys", help="keys with which the programs of a run reach other machines")
    actions = keys.add_subparsers(dest="action", required=True, metavar="ACTION")

    new = actions.add_parser("new", help="make this machine's keys; prints the line for the others")
    new.add_argument("name", nargs="?", default="", help="what others call this machine in addresses")
    new.set_defaults(run=_new)
    show = actions.add_parser("show", help="print this machine's line, KEY NAME, for the others")
    show.set_defaults(run=_show)
    allow = actions.add_parser("allow", help="let a machine in, and know it by its key")
    allow.add_argument("key", help="its key; or -, to read lines KEY NAME from the standard input")
    allow.add_argument(
        "names", nargs="*", metavar="NAME", help="the host that stands for it in addresses here"
    )
    allow.set_defaults(run=_allow)
    remove = actions.add_parser("remove", help="let a machine in no more")
    remove.add_argument("key", metavar="KEY|NAME")
    remove.set_defaults(run=_remove)
    listed = actions.add_parser("list", help="print the lines of those that are let in")
    listed.set_defaults(run=_list)
    for action in (new, show, allow, remove, listed):
        action.add_argument(
            "--keys", default="", metavar="FOLDER", help="as links.keys (~/.config/trieline/keys)"
        )


def _new(options: argparse.Namespace) -> int:
    folder = _folder(options)
    own = folder.make(options.name)
    print(f"{own.public} {own.name}")
    _say(f"keys of this machine are in {folder.path}. On each of the others:")
    _say(f"    trieline keys allow {own.public} {own.name}")
    return 0


def _show(options: argparse.Namespace) -> int:
    own = _folder(options).own()
    print(f"{own.public} {own.name}")
    return 0


def _allow(options: argparse.Namespace) -> int:
    folder = _folder(options)
    folder.own()
    for machine in _machines(options):
        new = folder.allow(machine)
        _say(f"{machine} {'is let in now' if new else 'was let in already'} ({folder.path})")
    return 0


def _machines(options: argparse.Namespace) -> "list[Machine]":
    from trieline.wire.errors import KeysError
    from trieline.wire.keys import machine_of

    if options.key != "-":
        return [machine_of(" ".join((options.key, *options.names)), where="keys allow")]
    if options.names:
        msg = f"expected names beside the keys on the standard input, got {' '.join(options.names)} here"
        raise KeysError(msg)
    lines = [line for line in sys.stdin if line.strip()]
    if not lines:
        msg = "expected lines KEY NAME on the standard input, got none"
        raise KeysError(msg)
    return [machine_of(line, where=f"line {number}") for number, line in enumerate(lines, start=1)]


def _remove(options: argparse.Namespace) -> int:
    folder = _folder(options)
    for machine in folder.remove(options.key):
        _say(f"{machine} is let in no more ({folder.path})")
    return 0


def _list(options: argparse.Namespace) -> int:
    for machine in _folder(options).allowed():
        print(machine)
    return 0


def _folder(options: argparse.Namespace) -> "KeyFolder":
    from trieline.wire.keys import KeyFolder

    return KeyFolder(Path(options.keys) if options.keys else "")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
