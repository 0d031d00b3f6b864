"""A tar from nobody one trusts: what must not pass is refused by name, and what passes is whole."""

import io
import tarfile

import pytest

from trieline.envs.errors import EnvError
from trieline.envs.sandbox import ArchiveError, archives

MIB = 1024 * 1024


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.size = kind, target, size
    return made


def tar_of(*entries: tarfile.TarInfo, form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for one in entries:
            tar.addfile(one, io.BytesIO(b"x" * one.size) if one.isreg() else None)
    return out.getvalue()


def passed(data: bytes, max_bytes: int = MIB) -> tarfile.TarFile:
    out = io.BytesIO()
    archives.copy(io.BytesIO(data), out, max_bytes=max_bytes)
    out.seek(0)
    return tarfile.open(fileobj=out)


def link(name: str, target: str) -> tarfile.TarInfo:
    return entry(name, tarfile.SYMTYPE, target)


LINKS_THAT_LEAVE = [
    ("a", "/etc/passwd"),
    ("a", ".."),
    ("a/b", "../../c"),
    ("a/b", "c/../../../d"),
    ("a/b/c/d", "e/../f"),  # by way of a link e -> ../../.., this is outside
    ("a", ""),
]
REFUSED: dict[str, tuple[bytes, str]] = {
    **{f"link {a} {b}": (tar_of(link(a, b)), "stays inside") for a, b in LINKS_THAT_LEAVE},
    "absolute": (tar_of(entry("/etc/passwd")), "relative path"),
    "up": (tar_of(entry("a/../../b")), "relative path"),
    "hard link": (tar_of(entry("a"), entry("b", tarfile.LNKTYPE, "a")), "symbolic links, got 'b'"),
    "hard link out": (tar_of(entry("b", tarfile.LNKTYPE, "/etc/passwd")), "symbolic links, got 'b'"),
    "character device": (tar_of(entry("zero", tarfile.CHRTYPE)), "got 'zero'"),
    "block device": (tar_of(entry("sda", tarfile.BLKTYPE)), "got 'sda'"),
    "FIFO": (tar_of(entry("pipe", tarfile.FIFOTYPE)), "got 'pipe'"),
    "old sparse": (tar_of(entry("big", tarfile.GNUTYPE_SPARSE), form=tarfile.GNU_FORMAT), "got 'big'"),
    "twice": (tar_of(entry("a"), entry("./a")), "each path once"),
    "file and folder": (tar_of(entry("a"), entry("a", tarfile.DIRTYPE)), "each path once"),
    "folder and link": (tar_of(entry("a/b"), link("a", "c")), "each path once"),
    "behind a link": (tar_of(link("a", "b"), entry("a/c")), "a folder above 'a/c'"),
    "deep": (tar_of(entry("/".join("d" * 300))), "200 folders"),
    "long": (tar_of(entry("/".join(["d" * 200] * 25))), "4096 characters"),
    "large": (tar_of(entry("a", size=MIB), entry("b", size=1)), "bytes together"),
    "empty": (b"", "expected a tar"),
    "noise": (bytes(range(256)) * 100, "expected a tar"),
    "cut in a file": (tar_of(entry("a", size=5000))[:3000], "expected a tar"),
    "cut before its end": (tar_of(entry("a", size=512))[:1024], "the end of a tar"),
    "noise after a file": (tar_of(entry("a"))[:512] + b"\1" * 2048, "the end of a tar"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_must_not_pass_is_refused_by_name(name: str) -> None:
    data, why = REFUSED[name]
    with pytest.raises(ArchiveError, match=why) as caught:
        passed(data)
    assert isinstance(caught.value, EnvError)
    assert isinstance(caught.value, OSError)


def with_pax(**headers: str) -> bytes:
    one = entry("a", size=10)
    one.pax_headers = headers
    return tar_of(one)


@pytest.mark.parametrize(
    "data",
    [
        with_pax(**{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9" * 15}),
        with_pax(**{"GNU.sparse.size": "10", "GNU.sparse.map": "0,10"}),
        with_pax(size="-512"),
        with_pax(size="9" * 18),
        with_pax(path="../../etc/passwd"),
        with_pax(path="a\0b"),
        with_pax(comment="x" * 2 * MIB),
    ],
    ids=["sparse 1.0", "sparse 0.1", "negative", "huge", "path", "NUL", "long header"],
)
def test_extended_headers_are_not_believed(data: bytes) -> None:
    with pytest.raises(ArchiveError):
        passed(data)


def endless(start: bytes, block: bytes) -> io.RawIOBase:
    class Stream(io.RawIOBase):
        given = 0

        def read(self, size: int = -1) -> bytes:
            data = (start if self.given == 0 else b"") + block * (size // len(block) + 1)
            self.given += size
            assert self.given < 64 * MIB, "it reads on and on"
            return data[:size]

    return Stream()


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_headers_without_end_are_not_read_to_it(kind: bytes) -> None:
    header = entry("h", kind, size=8 << 30).tobuf(tarfile.GNU_FORMAT)
    with pytest.raises(ArchiveError, match="headers of at most"):
        archives.copy(endless(header, b"x" * 512), io.BytesIO(), max_bytes=MIB)  # type: ignore[arg-type]
    header = entry("h", kind).tobuf(tarfile.GNU_FORMAT)
    with pytest.raises(ArchiveError):
        archives.copy(endless(header, header), io.BytesIO(), max_bytes=MIB)  # type: ignore[arg-type]


def test_members_without_end_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBERS", 50)
    assert len(passed(tar_of(*(entry(str(n)) for n in range(50)))).getnames()) == 50
    with pytest.raises(ArchiveError, match="at most 50 files"):
        passed(tar_of(*(entry(str(n)) for n in range(51))))


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_honest_trees_pass_whole(form: int) -> None:
    script = entry("pkg/bin/run", size=3)
    script.mode, script.uid, script.uname, script.mtime = 0o4755, 0, "root", 1_700_000_000
    names = ["näme with space\n", "a" * 150 + "/" + "b" * 60, "-x", "pkg/bin/.hidden"]
    entries = [entry("./pkg", tarfile.DIRTYPE), script, *map(entry, names)]
    entries += [link("pkg/up", "../-x"), link("pkg/bin/beside", "run"), link("pkg/gone", "no/such/file")]
    tar = passed(tar_of(*entries, form=form))
    assert [one.name for one in tar] == [one.name for one in entries]
    found = tar.getmember("pkg/bin/run")
    assert (found.mode, found.size, found.mtime, found.uname) == (0o755, 3, 1_700_000_000, "")
    assert tar.extractfile(found).read() == b"xxx"  # type: ignore[union-attr]
    assert tar.getmember("pkg/up").linkname == "../-x"


def test_a_name_that_is_no_text_passes_as_it_is() -> None:
    assert passed(tar_of(entry("caf\udce9"))).getnames() == ["caf\udce9"]


def test_the_comment_that_git_archive_leaves_is_no_hindrance() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", pax_headers={"comment": "e9dde41"}) as tar:
        tar.addfile(entry("a"))
    assert passed(out.getvalue()).getnames() == ["a"]


def test_a_pipe_that_gives_little_at_a_time_is_read_whole() -> None:
    class Pipe(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(size or 0, 700))

    data = tar_of(entry("a", size=100_000), entry("b", size=3))
    assert archives.copy(Pipe(data), io.BytesIO(), max_bytes=MIB) == 2
