"""Training: the objective, the trainer and its callbacks, and complete runs from settings to adapter."""

from typing import TYPE_CHECKING

from jola._lazy import lazily

if TYPE_CHECKING:
    from jola.training.fit import make_trainer as make_trainer
    from jola.training.run import run_training as run_training

__getattr__ = lazily(
    __name__,
    {
        "jola.training.fit": ("make_trainer",),
        "jola.training.run": ("run_training",),
    },
)
