"""Gradient checkpointing: the backward pass computes frozen layers again, instead of keeping their activations.

PyTorch's own checkpoints (`torch.utils.checkpoint`) are set around the layers. nnsight has left the model by the time
of the backward pass, so hooks edit the layers there: with the same edits, whose gates were drawn before the pass.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from jola.edits.intervention import Edit
from jola.edits.sites import Site
from jola.model.architectures import architecture_of, module_path
from jola.model.packing import packed_attention
from jola.model.steps import on_hidden

Again = Callable[[], AbstractContextManager[Any]]
"""Gives a context in which the weights of the model are edited as in the forward pass."""


@contextmanager
def checkpointed(
    base: PreTrainedModel,
    plan: Mapping[tuple[int, Site], Edit],
    again: Again | None,
    lock: AbstractContextManager[Any],
) -> Iterator[None]:
    """Inside the block, a pass keeps what enters each layer, and all activations of the last layer only.

    The backward pass uses those of the last layer first, so they do not add to what it needs at once.

    Args:
        plan: The edits of the pass.
        again: Entered by the backward pass for each layer that it computes again; None keeps all activations.
        lock: Held meanwhile. PyTorch runs the backward pass of an accelerator in a thread of its own, so that a thread
            that holds the lock and calls ``backward()`` there would wait forever.
    """
    if again is None:
        yield
        return
    layers = list(base.get_submodule(architecture_of(base).layers).children())[:-1]
    forwards = [layer.forward for layer in layers]
    for number, (layer, forward) in enumerate(zip(layers, forwards, strict=True)):
        edits = [(site, edit) for (where, site), edit in plan.items() if where == number]
        layer.forward = partial(_pass, base, number, forward, edits, partial(_locked, lock, again))
    try:
        yield
    finally:
        for layer, forward in zip(layers, forwards, strict=True):
            layer.forward = forward


def _pass(
    base: PreTrainedModel,
    layer: int,
    forward: Callable[..., Any],
    edits: list[tuple[Site, Edit]],
    again: Again,
    *arguments: Any,
    **keywords: Any,
) -> Any:
    """Call `forward` of a layer in a checkpoint."""
    after: list[Edit] = []

    def run(*arguments: Any, **keywords: Any) -> Any:
        output = forward(*arguments, **keywords)
        for edit in after:
            output = on_hidden(edit, output)
        return output

    @contextmanager
    def edited() -> Iterator[None]:
        packed = packed_attention(base) if keywords.get("packing") else nullcontext()
        with again(), packed, ExitStack() as hooks:
            for site, edit in edits:
                module = base.get_submodule(module_path(base, site, layer))
                if site is Site.BLOCK:  # hooks of the layer are not called by its `forward`
                    after.append(edit)
                elif site is Site.HEADS:
                    hooks.enter_context(module.register_forward_pre_hook(partial(_edit_input, edit)))
                else:
                    hooks.enter_context(module.register_forward_hook(partial(_edit_output, edit)))
            yield
        after.clear()

    # Stopped early, a layer that accelerate has moved to a device would stay there.
    contexts = partial(_contexts, edited)
    return checkpoint(run, *arguments, use_reentrant=False, context_fn=contexts, early_stop=False, **keywords)


@contextmanager
def _locked(lock: AbstractContextManager[Any], again: Again) -> Iterator[None]:
    with lock, again():
        yield


def _contexts(again: Again) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Those of the forward pass and of the pass that repeats it."""
    return nullcontext(), again()


def _edit_input(edit: Edit, module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return edit(arguments[0]), *arguments[1:]


def _edit_output(edit: Edit, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
    return on_hidden(edit, output)
