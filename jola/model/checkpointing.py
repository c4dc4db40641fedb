"""Gradient checkpointing: the backward pass recomputes the activations of the layers instead of storing them.

Each layer is wrapped in `torch.utils.checkpoint`. The trace of nnsight has ended when the backward pass runs, so hooks
apply the edits to the recomputed layers: the same edits as in the forward pass, with gates drawn before it.
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

Reapply = Callable[[], AbstractContextManager[Any]]
"""Returns a context in which the weights of the model are edited as in the forward pass."""


@contextmanager
def checkpointed(
    base: PreTrainedModel,
    plan: Mapping[tuple[int, Site], Edit],
    reapply_weights: Reapply | None,
    lock: AbstractContextManager[Any],
) -> Iterator[None]:
    """Let passes inside the block store only the input of each layer, but all activations of the last layer.

    The backward pass needs those of the last layer first, so they do not raise its peak memory.

    Args:
        plan: The edits of the pass.
        reapply_weights: Entered by the backward pass for each layer that it recomputes; None stores all activations.
        lock: Held while a layer is recomputed. On accelerators, PyTorch runs the backward pass in another thread, so a
            thread that holds the lock and calls ``backward()`` would wait forever.
    """
    if reapply_weights is None:
        yield
        return
    layers = list(base.get_submodule(architecture_of(base).layers).children())[:-1]
    forwards = [layer.forward for layer in layers]
    for number, (layer, forward) in enumerate(zip(layers, forwards, strict=True)):
        edits = [(site, edit) for (where, site), edit in plan.items() if where == number]
        layer.forward = partial(_pass, base, number, forward, edits, partial(_locked, lock, reapply_weights))
    try:
        yield
    finally:
        # nnsight has already set `forward` on each layer, so this leaves no new attribute.
        for layer, forward in zip(layers, forwards, strict=True):
            layer.forward = forward


def _pass(
    base: PreTrainedModel,
    layer: int,
    forward: Callable[..., Any],
    edits: list[tuple[Site, Edit]],
    reapply_weights: Reapply,
    *arguments: Any,
    **keywords: Any,
) -> Any:
    """Call `forward` of a layer inside a checkpoint."""
    after: list[Edit] = []

    def run(*arguments: Any, **keywords: Any) -> Any:
        output = forward(*arguments, **keywords)
        for edit in after:
            output = on_hidden(edit, output)
        return output

    @contextmanager
    def edited() -> Iterator[None]:
        packed = packed_attention(base) if keywords.get("packing") else nullcontext()
        with reapply_weights(), packed, ExitStack() as hooks:
            hooks.callback(after.clear)
            for site, edit in edits:
                module = base.get_submodule(module_path(base, site, layer))
                if site is Site.BLOCK:  # calling `forward` of the layer does not run hooks on the layer
                    after.append(edit)
                elif site is Site.HEADS:
                    hooks.enter_context(module.register_forward_pre_hook(partial(_edit_input, edit)))
                else:
                    hooks.enter_context(module.register_forward_hook(partial(_edit_output, edit)))
            yield

    # With early stopping, a layer that accelerate has moved to a device would stay there.
    return checkpoint(
        run,
        *arguments,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _Repeated(edited)),
        early_stop=False,
        **keywords,
    )


@contextmanager
def _locked(lock: AbstractContextManager[Any], reapply_weights: Reapply) -> Iterator[None]:
    with lock, reapply_weights():
        yield


class _Repeated(AbstractContextManager[None]):
    """Enters a new context each time, because every backward pass through a retained graph enters the same object."""

    def __init__(self, context: Reapply) -> None:
        self._context, self._entered = context, ExitStack()

    def __enter__(self) -> None:
        self._entered.enter_context(self._context())

    def __exit__(self, *error: Any) -> None:
        self._entered.__exit__(*error)


def _edit_input(edit: Edit, module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return edit(arguments[0]), *arguments[1:]


def _edit_output(edit: Edit, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
    return on_hidden(edit, output)
