"""Places are bounded in number, and come back once."""

import threading

import pytest

from trieline.envs.errors import SandboxError
from trieline.envs.sandbox import Places, shared_places


def test_no_more_are_taken_than_there_are() -> None:
    places = Places(2, "desks")
    one, two = places.take(), places.take()
    with pytest.raises(SandboxError, match=r"waited 0\.1 s for one of 2 desks: all of them are open"):
        places.take(0.1)
    one.close()
    one.close()
    with places.take(0.1), pytest.raises(SandboxError):
        places.take(0.0)
    two.close()
    places.take(0.1)


def test_who_waits_gets_the_next_one() -> None:
    places = Places(1, "desks")
    held = places.take()
    came = threading.Event()

    def wait() -> None:
        with places.take(10):
            came.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not came.wait(0.05)
    held.close()
    assert came.wait(10)
    thread.join()


def test_they_are_shared_by_size_and_purpose() -> None:
    assert shared_places(3, "desks") is shared_places(3, "desks")
    assert shared_places(3, "desks") is not shared_places(2, "desks")
    assert shared_places(3, "desks") is not shared_places(3, "chairs")
    with pytest.raises(ValueError, match="expected at least 1 place for desks, got 0"):
        Places(0, "desks")
