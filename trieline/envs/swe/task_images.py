"""The images of tasks under Docker: a checkout on `swe-base`, in one layer of its own.

They are what the images of SWE-bench are: the repository is `/testbed`, and it and all programs are root's.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from trieline.envs.errors import DataError, EnvError, TaskError
from trieline.envs.swe.repository_task import WORKDIR, RepositoryTask
from trieline.envs.swe.workspaces import ROOT, image_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """What became of the image of one task."""

    image: str
    changed: bool = False
    """Was it built, or removed? False: it was there, or gone, already."""
    problem: str = ""
    """Why it could not be."""


def build_images(
    tasks: Sequence[RepositoryTask], checkouts: Path, *, base: str, workers: int
) -> Iterator[Done]:
    """Build those that are not there, or of other files: as each is done. One that fails stops no other.

    Args:
        tasks: each with an image of its own.
        checkouts: a folder with the repository of each instance under its id.
        base: the image that they all share.
        workers: images at once.

    Raises:
        DataError: two tasks name one image.
    """
    from trieline.envs.sandbox import images

    def build(task: RepositoryTask) -> bool:
        checkout = checkouts / task.instance_id
        if not checkout.is_dir():
            msg = f"expected a folder {task.instance_id} in {checkouts}, found none"
            raise TaskError(msg)
        return images.make_of(checkout, image_of(task), workdir=WORKDIR, base=base, user=ROOT)

    return _each(tasks, build, workers)


def remove_images(tasks: Sequence[RepositoryTask], *, workers: int) -> Iterator[Done]:
    """Remove those that `build_images` built; as there. Other images of these names are left alone."""
    from trieline.envs.sandbox import images

    return _each(tasks, lambda task: images.remove_made(image_of(task)), workers)


def _each(
    tasks: Sequence[RepositoryTask], act: Callable[[RepositoryTask], bool], workers: int
) -> Iterator[Done]:
    owners: dict[str, str] = {}
    for task in tasks:
        if (other := owners.setdefault(image_of(task), task.instance_id)) != task.instance_id:
            msg = f"expected an image for each task, got {image_of(task)} for {other} and {task.instance_id}"
            raise DataError(msg)

    def one(task: RepositoryTask) -> Done:
        try:
            return Done(image=image_of(task), changed=act(task))
        except EnvError as error:
            return Done(image=image_of(task), problem=str(error))

    with ThreadPoolExecutor(workers, thread_name_prefix="images") as pool:
        try:
            for future in as_completed([pool.submit(one, task) for task in tasks]):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
