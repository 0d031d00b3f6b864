"""A work folder that starts with the files of a checkout, which stays as it is: what is changed lies apart.

The checkout is shown in place of the work folder, read-only, when the keeper starts. In a mount namespace of
its own, before any program runs, the keeper lays an overlay over it, and then gives up for good the
capabilities that this took. All that programs write is in one tmpfs of bounded size and number of files,

    upper/ what was changed in the checkout    work/ the overlay's own    tmp/ /tmp    shm/ /dev/shm

so a copy of the sandbox in the middle of its work costs what was changed, and not the checkout. Before Linux
6.6 a tmpfs lacks the extended attributes in which an overlay notes that a folder was replaced: there, and
where the kernel lets no user mount one, the files are copied to upper/, and all of them count as changed.

Formats: Linux's Documentation/filesystems/overlayfs.rst, include/uapi/linux/{mount,prctl,capability}.h.
"""

# ruff: noqa: PTH101, PTH102, PTH108, PTH112, PTH114, PTH116, PTH118, PTH123, PTH208
# the keeper starts faster without pathlib
from __future__ import annotations

import ctypes
import io
import os
import shutil
import stat
import tarfile
from typing import Optional

from trieline.envs.sandbox.inside import files

CLONE_NEWNS = 0x00020000
MS_NOSUID, MS_NODEV, MS_BIND = 2, 4, 4096
PR_CAPBSET_DROP, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 24, 47, 4
CAPABILITY_VERSION_3 = 0x20080522
NO_MORE_CAPABILITIES = 64
TMP = "/tmp"
PLACES = (("tmp", TMP), ("shm", "/dev/shm"))
OPAQUE = "user.overlay.opaque"
ALL = "."
REMOVED, IN_CHECKOUT, IN_TMP = "removed", "work", "tmp"
"""What an archive holds: paths that are gone, each ended by NUL; then the files below the two folders."""


def _mount(source: str, target: str, kind: Optional[str], flags: int, data: Optional[str] = None) -> None:  # noqa: UP045  # `|` of types is new in Python 3.10
    words = [None if word is None else os.fsencode(word) for word in (source, target, kind, data)]
    if ctypes.CDLL(None, use_errno=True).mount(*words[:3], ctypes.c_ulong(flags), words[3]) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), target)


def lay_over(workdir: str, size_bytes: int, max_files: int) -> Layer:
    """Make `workdir`, a checkout, /tmp and /dev/shm writable within these bounds, then drop capabilities."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), f"no mount namespace: {os.strerror(ctypes.get_errno())}")
    quiet = MS_NOSUID | MS_NODEV
    _mount("tmpfs", TMP, "tmpfs", quiet, f"size={size_bytes},nr_inodes={max_files},mode=0700")
    upper = os.path.join(TMP, "upper")
    for name in ("upper", "work", "tmp", "shm"):
        os.mkdir(os.path.join(TMP, name), 0o700)
    os.chmod(upper, stat.S_IMODE(os.stat(workdir).st_mode) | 0o700)
    layer = Layer(workdir, os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    try:
        # What an overlay notes of a replaced folder; without it, programs could not replace one.
        os.setxattr(upper, OPAQUE, b"n")
        os.removexattr(upper, OPAQUE)
        layers = f"lowerdir={_quoted(workdir)},upperdir={upper},workdir={TMP}/work,userxattr"
        _mount("overlay", workdir, "overlay", quiet, layers)
    except OSError:
        layer.is_whole = True
        shutil.copytree(workdir, upper, symlinks=True, dirs_exist_ok=True)
        _mount(upper, workdir, None, MS_BIND)
    # /tmp last: it covers the tmpfs that the others are a part of.
    for name, place in reversed(PLACES):
        _mount(os.path.join(TMP, name), place, None, MS_BIND)
    drop_capabilities()
    return layer


def _quoted(path: str) -> str:
    """As an overlay's option: ',' parts options, ':' parts layers."""
    return "".join("\\" + letter if letter in "\\,:" else letter for letter in path)


def drop_capabilities() -> None:
    """All of them, for good: this process and what it starts can't get one back. OSError if any is left."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(NO_MORE_CAPABILITIES):
        libc.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0)  # fails for those that don't exist
    libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    # struct __user_cap_header_struct { version, pid }; two of { effective, permitted, inheritable }
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    libc.capset(header, (ctypes.c_uint32 * 6)())
    with open("/proc/self/status") as lines:
        left = [line.split() for line in lines if line.startswith("Cap")]
    if any(int(mask, 16) for _, mask in left):
        msg = f"expected no capability to be left, got {left}"
        raise OSError(msg)


class Layer:
    """What lies over the checkout `workdir`: the folder `upper`, an open descriptor."""

    def __init__(self, workdir: str, upper: int) -> None:
        self.workdir = workdir
        self.is_whole = False
        """Is it a copy of the checkout, and not an overlay's?"""
        self._upper = f"/proc/self/fd/{upper}"

    def _changed(self) -> list[str]:
        """Paths of the folders of `upper`, the outer ones first, each made readable: an owner may do that."""
        folders = [""]
        for folder in folders:
            for entry in sorted(os.scandir(os.path.join(self._upper, folder)), key=lambda entry: entry.name):
                path = os.path.join(folder, entry.name)
                mode = entry.stat(follow_symlinks=False).st_mode
                wanted = 0o700 if stat.S_ISDIR(mode) else 0o400
                if (stat.S_ISDIR(mode) or stat.S_ISREG(mode)) and mode & wanted != wanted:
                    os.chmod(os.path.join(self.workdir, path), stat.S_IMODE(mode) | wanted)
                if stat.S_ISDIR(mode):
                    folders.append(path)
        return folders

    def removed(self) -> list[str]:
        """Paths of what is gone from the checkout, or was replaced by a folder. ALL: it was copied."""
        if self.is_whole:
            return [ALL]
        found = []
        for folder in self._changed():
            place = os.path.join(self._upper, folder)
            if folder and OPAQUE in os.listxattr(place) and os.getxattr(place, OPAQUE) == b"y":
                found.append(folder)
            for entry in os.scandir(place):
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                    found.append(os.path.join(folder, entry.name))
        return sorted(found)

    def archive_size(self, max_bytes: int) -> int:
        """Bytes that `archive` will write. OSError if they are more than `max_bytes`, or folders too deep."""
        counter = files.Counter(max_bytes)
        with files.bounded_depth():
            self._changed()
            files.make_readable(TMP)
            self.archive(counter)
        return counter.size

    def archive(self, out: files.Stream) -> None:
        """Stream what was changed, for `restore` in another sandbox of the same checkout."""
        gone = b"".join(os.fsencode(path) + b"\0" for path in self.removed())
        with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:
            entry = tarfile.TarInfo(REMOVED)
            entry.size = len(gone)
            tar.addfile(entry, io.BytesIO(gone))
            for root, name in ((self._upper, IN_CHECKOUT), (TMP, IN_TMP)):
                for inner in sorted(os.listdir(root)):
                    tar.add(os.path.join(root, inner), arcname=f"{name}/{inner}", filter=_no_device)

    def restore(self, source: files.Stream) -> None:
        """Make the changes that `archive` wrote, in a sandbox in which nothing ran."""
        roots = {IN_CHECKOUT: self.workdir, IN_TMP: TMP}
        folders = []
        with tarfile.open(fileobj=source, mode="r|") as tar:
            files.trust(tar)
            for member in tar:
                root, _, member.name = member.name.partition("/")
                if root == REMOVED:
                    _remove_all(self.workdir, tar.extractfile(member).read())  # type: ignore[union-attr]
                    continue
                target = os.path.join(roots[root], member.name)
                if member.islnk():
                    member.linkname = member.linkname.partition("/")[2]
                if member.isdir():
                    if not os.path.isdir(target) or os.path.islink(target):
                        _remove(target)
                        os.mkdir(target, 0o700)
                    folders.append((target, member))
                else:
                    _remove(target)
                    tar.extract(member, roots[root])
        for target, member in reversed(folders):
            os.chmod(target, member.mode)
            os.utime(target, (member.mtime, member.mtime))


def _no_device(member: tarfile.TarInfo) -> Optional[tarfile.TarInfo]:  # noqa: UP045  # as above
    return None if member.isdev() and not member.isfifo() else member


def _remove_all(workdir: str, paths: bytes) -> None:
    removed = [os.fsdecode(path) for path in paths.split(b"\0")[:-1]]
    for path in os.listdir(workdir) if removed == [ALL] else removed:
        _remove(os.path.join(workdir, path))


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)
