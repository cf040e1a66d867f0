import threading

import pytest
import torch

from lttune.engine import judge
from lttune.engine.judge import ImageFound, ImageQueue


def found(image: int) -> ImageFound:
    none = torch.zeros(0)
    return ImageFound(
        image=image, size=(8, 8), labels=none.long(), scores=none, size_seen=(8, 8), boxes=none.view(0, 4), masks=None
    )


@pytest.mark.parametrize("is_apart", [False, True])
def test_images_are_taken_in_their_order_and_all_of_them(is_apart: bool) -> None:
    taken: list[tuple[int, bool]] = []
    main = threading.current_thread()
    with ImageQueue(lambda one: taken.append((one.image, threading.current_thread() is main)), is_apart=is_apart) as q:
        for image in range(200):
            q.give(found(image))
    assert taken == [(image, not is_apart) for image in range(200)]


@pytest.mark.parametrize("is_apart", [False, True])
def test_a_fault_of_the_other_thread_is_not_lost(is_apart: bool) -> None:
    def take(one: ImageFound) -> None:
        if one.image == 3:
            raise ValueError("the third image")

    def give_all() -> None:
        with ImageQueue(take, is_apart=is_apart) as queue:
            for image in range(6):
                queue.give(found(image))

    with pytest.raises(ValueError, match="the third image"):
        give_all()


def assert_true(claim: bool) -> None:
    assert claim


def test_few_images_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "_IMAGES_BEHIND", 2)
    go_on, given = threading.Event(), []

    def give_all() -> None:
        with ImageQueue(lambda one: assert_true(go_on.wait(10)), is_apart=True) as queue:
            for image in range(5):
                queue.give(found(image))
                given.append(image)

    giver = threading.Thread(target=give_all)
    giver.start()
    giver.join(0.2)
    # The third one waits until the first is taken.
    assert giver.is_alive()
    assert given == [0, 1]
    go_on.set()
    giver.join(10)
    assert given == [0, 1, 2, 3, 4]
