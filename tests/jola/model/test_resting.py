"""`at_rest` disables the noise of training, also for two threads at once."""

import threading
from collections.abc import Callable

import torch

from jola.jola_model import JoLAModel
from jola.model.resting import at_rest
from tests.jola.model.passes import BATCH


def test_two_threads(tiny: Callable[..., JoLAModel]) -> None:
    model = tiny("llama")
    with torch.no_grad():
        expected = model(BATCH).logits
    model.train()
    inside, found = threading.Event(), []

    def second() -> None:
        inside.wait()
        with at_rest(model):
            first.join()  # the first thread ends its block and may train again
            found.append(model(BATCH).logits)

    def hold() -> None:
        with at_rest(model):
            inside.set()
            other.join(0.5)  # the second thread must not enter its block before this one ends

    first, other = threading.Thread(target=hold), threading.Thread(target=second)
    for thread in (other, first):
        thread.start()
    for thread in (first, other):
        thread.join()
    assert torch.equal(found[0], expected)
    assert all(module.training for module in model.modules())
