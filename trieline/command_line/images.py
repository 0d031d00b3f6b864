"""`trieline images list | build | smoke`: the images that sandboxes in containers start from."""

import argparse

OFFLINE = "fetch nothing: build on an image that is here"


def add_verbs(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb of this module to the command."""
    images = verbs.add_parser("images", help="list, build and try the images of sandboxes in containers")
    actions = images.add_subparsers(dest="action", required=True, metavar="ACTION")

    listing = actions.add_parser("list", help="the images there are, and which of them are built here")
    listing.set_defaults(run=_list)

    build = actions.add_parser("build", help="build images, and try them")
    build.add_argument("names", metavar="NAME", nargs="*", help="as in the list (default: all)")
    build.add_argument(
        "--base", metavar="IMAGE", help="the image to build on, a Debian-like one with python3"
    )
    build.add_argument("--offline", action="store_true", help=OFFLINE)
    build.set_defaults(run=_build)

    smoke = actions.add_parser("smoke", help="try whether images have what a sandbox needs")
    smoke.add_argument("names", metavar="NAME", nargs="*", help="as in the list (default: all)")
    smoke.set_defaults(run=_smoke)


def _list(_options: argparse.Namespace) -> int:
    from trieline.envs.sandbox import images
    from trieline.envs.sandbox.docker import engine

    for name in images.names():
        image = images.tag(name)
        print(f"{image:<24}  {'built' if engine().has_image(image) else 'not built'}")
    return 0


def _build(options: argparse.Namespace) -> int:
    from trieline.envs.sandbox import images

    for name in options.names or images.names():
        base = images.build(name, base=options.base, offline=options.offline)
        print(f"built {images.tag(name)} on {base}")
    return _smoke(options)


def _smoke(options: argparse.Namespace) -> int:
    from trieline.common.text import LINES, visible
    from trieline.envs.sandbox import images

    failed = 0
    for name in options.names or images.names():
        reason = images.smoke(name)
        failed += reason is not None
        detail = "" if reason is None else f": {visible(reason, keep=LINES)}"
        print(f"{'OK  ' if reason is None else 'FAIL'}  {images.tag(name)}{detail}")
    return 1 if failed else 0
