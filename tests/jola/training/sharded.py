"""The work of each of two processes in `test_sharding`: ``sharded.py OUTPUT 'done|WORD|…' 'ended|WORD|…' …``."""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from jola.cli.main import main
from jola.system.startup import quick_imports

with quick_imports():
    import torch
    from torch.distributed.tensor import DTensor

    from jola.jola_model import JoLAModel
    from jola.model.sharding import shard
    from jola.system.distributed import meet
    from jola.training.trainer import JoLATrainer
    from tests.methods.contract import ARCHITECTURES, CASES, Case, case_of, fill
    from tests.tiny import make_model, make_tokenizer

IDS = torch.tensor([[5, 9, 17, 33, 8, 21, 40], [7, 3, 28, 64, 90, 11, 2]])
PASSES = [(case, "llama") for case in CASES] + [(case_of("jola"), each) for each in ARCHITECTURES[1:]]


def outcome(case: Case, architecture: str, *, sharded: bool, checkpointing: bool = False) -> dict[str, Any]:
    """Return the answers, loss and gradients of a method on a tiny model, and the share of weights in this process."""
    base = make_model(architecture)
    if sharded:
        shard(base, torch.device("cpu"))
    model = fill(JoLAModel(base, make_tokenizer(), case.settings))
    found: dict[str, Any] = {"answer": model.generate(IDS, max_new_tokens=4, do_sample=False).tolist()}
    if case.by_gradients:
        model.train()
        model.seed_gates(3)
        model.gradient_checkpointing = checkpointing
        torch.manual_seed(5)  # for dropout
        loss = model(IDS, labels=torch.cat([torch.full((2, 4), -100), IDS[:, 4:]], 1)).loss
        assert loss is not None
        loss.backward()
        found["loss"] = float(loss)
        found["gradients"] = {name: p.grad.tolist() for name, p in model.named_parameters() if p.grad is not None}
    if sharded:
        parts = [p.to_local() if isinstance(p, DTensor) else p for p in base.parameters() if not p.requires_grad]
        found["part"] = sum(p.numel() for p in parts) / sum(p.numel() for p in make_model(architecture).parameters())
    return found


def passes() -> dict[str, list[dict[str, Any]]]:
    """Return three outcomes per method and architecture: whole, sharded, and sharded with gradient checkpointing."""
    return {
        f"{case.name} {architecture}": [
            outcome(case, architecture, sharded=False),
            outcome(case, architecture, sharded=True),
            outcome(case, architecture, sharded=True, checkpointing=True),
        ]
        for case, architecture in PASSES
    }


@contextlib.contextmanager
def ended_in_step(number: int) -> Any:
    """End training runs inside the block before this step, as a signal would."""
    step = JoLATrainer.training_step

    def ending(self: JoLATrainer, *arguments: Any) -> Any:
        if self.state.global_step == number:
            raise KeyboardInterrupt
        return step(self, *arguments)

    JoLATrainer.training_step = ending
    with contextlib.suppress(SystemExit):
        yield
    JoLATrainer.training_step = step


if __name__ == "__main__":
    torch.set_num_threads(1)
    first = meet(lambda: True)
    found = passes()
    if first:
        Path(sys.argv[1]).write_text(json.dumps(found))
    for command in sys.argv[2:]:
        kind, *words = command.split("|")
        with ended_in_step(4) if kind == "ended" else contextlib.nullcontext():
            main(words)
