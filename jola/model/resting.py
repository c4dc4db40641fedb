"""`at_rest`: passes without gradients and noise, in any mode of the model."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from jola.model.edited import EditedModel


@contextmanager
def at_rest(model: EditedModel) -> Iterator[None]:
    """Disable gradients and the noise of training inside the block, even if the edits are in training mode."""
    with torch.no_grad():
        # The mode is read under the lock, because another thread in this block may have changed it for a moment.
        with model.lock:
            training = [i for i in model.in_use if i.training]
            if training:
                for intervention in training:
                    intervention.eval()
                try:
                    yield
                finally:
                    for intervention in training:
                        intervention.train()
                return
        yield
