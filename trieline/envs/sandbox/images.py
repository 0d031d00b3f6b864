"""Images that sandboxes start from: those of `trieline/sandbox_images`, and those of a repository."""

import subprocess
import tarfile
import uuid
from pathlib import Path

from docker.utils import parse_repository_tag

from trieline.envs.errors import SandboxError
from trieline.envs.sandbox import archives, bundle, owner
from trieline.envs.sandbox.docker import IMAGE, OWNER_LABEL, engine

FOLDER = Path(__file__).parents[2] / "sandbox_images"
VERSION = 1
BASES = ("trieline/base:1", "python:3-slim")
"""The first one that is here is what images are built on."""
SMOKE_SECONDS = 120


def names() -> list[str]:
    """Of the images that can be built."""
    return sorted(dockerfile.parent.name for dockerfile in FOLDER.glob("*/Dockerfile"))


def tag(name: str) -> str:
    """What an image of ours is called in the engine. SandboxError if there is none of that name."""
    if name not in names():
        msg = f"expected an image of {', '.join(names())}, got {name!r}"
        raise SandboxError(msg)
    return f"trieline/{name}:{VERSION}"


def build(name: str, *, base: str | None = None, offline: bool = False) -> str:
    """Build one of ours, and say on what: `base`, else the first of BASES that is here or can be pulled."""
    image, eng = tag(name), engine()
    if base is None:
        base = next(filter(eng.has_image, BASES), BASES[-1])
    if not eng.has_image(base):
        if offline:
            msg = f"no image to build {image} on: expected {base} or {BASES[0]} (scripts/build_base_image.sh)"
            raise SandboxError(msg)
        eng.call(f"pull {base}", eng.api.pull, *parse_repository_tag(base))

    def run() -> list[dict[str, str]]:
        settings = {"BASE": base}
        folder = str(FOLDER / name)
        steps = eng.api.build(
            path=folder, tag=image, buildargs=settings, network_mode="none", forcerm=True, decode=True
        )
        return list(steps)

    steps = eng.call(f"build {image}", run)
    errors = [step["error"] for step in steps if "error" in step]
    if errors:
        said = "".join(step.get("stream", "") for step in steps)[-2000:]
        msg = f"Docker Engine could not build {image}: {errors[0]}\n{said}"
        raise SandboxError(msg)
    return base


def smoke(name: str) -> str | None:
    """Why the image is not what a sandbox needs, or None if it is. Its own script says so."""
    image = tag(name)
    if not engine().has_image(image):
        return f"{image} is not built"
    try:
        done = subprocess.run(
            [FOLDER / name / "smoke_test.sh", image],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SMOKE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if done.returncode == 0 else (done.stderr + done.stdout)[-2000:].strip() or "it failed"


def make_of(checkout: Path, image: str, *, workdir: str, base: str = IMAGE, user: int = bundle.UID) -> None:
    """Make the image `image` of a base and a folder on this host, for sandboxes with a writable root.

    The folder is at `workdir` and belongs to `user`. Unlike what is started from it, the image stays until
    somebody removes it.
    """

    def owned(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = user
        member.uname = member.gname = ""
        return member

    eng = engine()
    container = f"trieline-{uuid.uuid4().hex}"
    labels = {OWNER_LABEL: owner.this_process()}
    # What is committed has the container's labels. Without an owner no sweep removes it.
    changes = [f"LABEL {OWNER_LABEL}="]
    with archives.new_spool() as files:
        with tarfile.open(fileobj=files, mode="w") as tar:
            tar.add(checkout, arcname=workdir.lstrip("/"), filter=owned)
        files.seek(0)
        try:
            create = eng.api.create_container
            eng.call(f"create a container of {base}", create, base, "true", name=container, labels=labels)
            eng.call("fill the container", eng.api.put_archive, container, "/", files)
            repository, version = parse_repository_tag(image)
            eng.call("commit it", eng.api.commit, container, repository, version, changes=changes)
        finally:
            eng.remove(container)
