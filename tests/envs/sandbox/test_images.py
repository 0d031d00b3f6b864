"""The images that sandboxes start from are here to be built, and say by themselves whether they will do."""

import os
from pathlib import Path

import pytest

from tests.envs.sandbox.conftest import need
from trieline.command_line import main
from trieline.envs.errors import SandboxError
from trieline.envs.sandbox import SandboxSpec, docker, images, open_sandbox


@pytest.mark.parametrize("name", images.names())
def test_every_image_has_a_folder_with_its_test(name: str) -> None:
    folder = images.FOLDER / name
    assert (folder / "Dockerfile").read_text().count("ARG BASE=") == 1
    assert f"LABEL trieline.image={name}\n" in (folder / "Dockerfile").read_text()
    assert os.access(folder / "smoke_test.sh", os.X_OK)
    assert images.tag(name) in (folder / "smoke_test.sh").read_text()


def test_an_unknown_image_is_told_what_there_is() -> None:
    assert {"python", "shell", "swe-base"} <= set(images.names())
    for name in ("nothing", "../python", ""):
        with pytest.raises(SandboxError, match="expected an image of python, shell, swe-base, got"):
            images.tag(name)


@pytest.mark.docker
def test_images_are_built_listed_and_tried(capsys: pytest.CaptureFixture[str]) -> None:
    need("docker")
    assert main(["images", "build", "shell", "swe-base", "--base", docker.IMAGE, "--offline"]) == 0
    assert capsys.readouterr().out.count("OK  ") == 2
    assert main(["images", "list"]) == 0
    assert capsys.readouterr().out.count(" built\n") == 3
    spec = SandboxSpec(image=images.tag("swe-base"), workdir="/testbed", writable_root=True)
    sandbox = open_sandbox("docker", spec=spec)
    try:
        done = sandbox.exec(
            spec.line("git init -q && echo 1 > a && git add a && git commit -q -m first && pwd")
        )
        assert (done.stdout, done.stderr) == (b"/testbed\n", b"")
    finally:
        sandbox.close()


@pytest.mark.docker
def test_a_build_and_a_test_that_fail_say_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    need("docker")
    monkeypatch.setattr(images, "FOLDER", tmp_path)
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "Dockerfile").write_text("ARG BASE\nFROM ${BASE}\nUSER 0\nRUN echo so it goes && false\n")
    with pytest.raises(SandboxError, match=r"could not build trieline/broken:1[\s\S]+so it goes"):
        images.build("broken", base=docker.IMAGE)
    assert images.smoke("broken") == "trieline/broken:1 is not built"
    with pytest.raises(
        SandboxError, match="no image to build trieline/broken:1 on: expected trieline/absent:1"
    ):
        images.build("broken", base="trieline/absent:1", offline=True)
    (folder / "smoke_test.sh").write_text("#!/bin/sh\necho no bash >&2; exit 1\n")
    (folder / "smoke_test.sh").chmod(0o755)
    monkeypatch.setattr(images, "tag", lambda _: docker.IMAGE)
    assert images.smoke("broken") == "no bash"
