"""Images that sandboxes start from: those of `trieline/sandbox_images`, and those of a repository."""

import hashlib
import subprocess
import tarfile
import uuid
from functools import partial
from pathlib import Path
from typing import IO, Any

import docker
import docker.errors
from docker.utils import parse_repository_tag

from trieline.envs.errors import SandboxError
from trieline.envs.sandbox import archives, bundle, owner
from trieline.envs.sandbox.docker import IMAGE, OWNER_LABEL, engine

FOLDER = Path(__file__).parents[2] / "sandbox_images"
VERSION = 1
BASES = ("trieline/base:1", "python:3-slim")
"""The first one that is here is what images are built on."""
SMOKE_SECONDS = 120
CHECKOUT_LABEL = "trieline.checkout"
"""Of an image that was made of a folder here: the digest of all that is in it."""
CHUNK = 1024 * 1024


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
            msg = (
                f"no image to build {image} on: expected {base} or {BASES[0]}, which "
                "scripts/build_base_image.sh of the source repository makes of Debian packages"
            )
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


def make_of(checkout: Path, image: str, *, workdir: str, base: str = IMAGE, user: int = bundle.UID) -> bool:
    """Make the image `image` of a base and a folder on this host, for sandboxes with a writable root.

    The folder is at `workdir`, belongs to `user`, and is the one layer over those of the base. Unlike what is
    started from it, the image stays until somebody removes it.

    Returns:
        False if it is there already, of this base and these files with these modes and times.

    Raises:
        SandboxError: the folder can't be read, the engine failed, or there is an image of this name that was
            not made by this function: it is left alone.
    """
    eng = engine()
    made_of = hashlib.sha256(f"{_id(base)} {user}\n".encode())
    with archives.new_spool() as files:
        try:
            with tarfile.open(fileobj=files, mode="w") as tar:
                tar.add(checkout, arcname=workdir.lstrip("/"), filter=partial(_owned, user))
        except OSError as error:
            msg = f"expected a folder that can be read, to make {image} of: {error}"
            raise SandboxError(msg) from error
        files.seek(0)
        while part := files.read(CHUNK):
            made_of.update(part)
        files.seek(0)
        old = _made(image)
        if old is not None and old[1] == made_of.hexdigest():
            return False
        # What is committed has the container's labels. Without an owner no sweep removes it.
        changes = [f"LABEL {OWNER_LABEL}= {CHECKOUT_LABEL}={made_of.hexdigest()}", f"USER {user}"]
        _commit(base, files, image, changes)
    if old is not None:
        eng.remove_image(old[0])
    return True


def _owned(user: int, member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = user
    member.uname = member.gname = ""
    return member


def _commit(base: str, files: IO[bytes], image: str, changes: list[str]) -> None:
    """Make an image of the base and a tar, which is unpacked at its root."""
    eng = engine()
    container = f"trieline-{uuid.uuid4().hex}"
    labels = {OWNER_LABEL: owner.this_process()}
    try:
        create = eng.api.create_container
        eng.call(f"create a container of {base}", create, base, "true", name=container, labels=labels)
        eng.call("fill the container", eng.api.put_archive, container, "/", files)
        repository, version = parse_repository_tag(image)
        eng.call("commit it", eng.api.commit, container, repository, version, changes=changes)
    finally:
        eng.remove(container)


def _found(image: str) -> dict[str, Any] | None:
    """What the engine says of an image, or None if it has none of that name."""

    def inspect() -> dict[str, Any] | None:
        try:
            return dict(eng.api.inspect_image(image))
        except docker.errors.ImageNotFound:
            return None

    eng = engine()
    return eng.call(f"look for the image {image}", inspect)


def _id(image: str) -> str:
    found = _found(image)
    if found is None:
        msg = f"expected the image {image}, to build on, got none of that name"
        raise SandboxError(msg)
    return str(found["Id"])


def _made(image: str) -> tuple[str, str] | None:
    """Id and digest of the image of that name; None if there is none. SandboxError for another's."""
    found = _found(image)
    if found is None:
        return None
    digest = (found["Config"]["Labels"] or {}).get(CHECKOUT_LABEL)
    if digest is None:
        msg = f"expected {image} to be made of a checkout here, got another image: it is left alone"
        raise SandboxError(msg)
    return str(found["Id"]), digest


def made() -> list[str]:
    """Names of all images by `make_of`."""
    eng = engine()
    found = eng.call("list images", eng.api.images, filters={"label": CHECKOUT_LABEL})
    # Snapshots of what was started from one have its label, too, and an owner.
    unowned = [image for image in found if not image["Labels"].get(OWNER_LABEL)]
    return sorted(name for image in unowned for name in image["RepoTags"] or () if name != "<none>:<none>")


def remove_made(image: str) -> bool:
    """Remove an image by `make_of`. False if there is none of that name.

    Raises:
        SandboxError: it was not made by it, a container needs it, or the engine failed.
    """
    eng = engine()
    if _made(image) is None:
        return False
    eng.call(f"remove {image}", eng.api.remove_image, image)
    return True
