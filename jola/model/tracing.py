"""Edited passes of a frozen language model through nnsight.

Only this file, jola/model/ndif.py and jola/remote.py import nnsight. nnsight 0.8 has two rules: only one thread at a
time may trace a model (`TracedModel.lock`), and an intervention in a generation loop must be inside
``tracer.iter[:]``, or it edits only the prompt. A trace must access the sites in the order of the pass.
"""

import inspect
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import nnsight
import torch
from nnsight.intervention.interleaver import OutOfOrderError
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from jola.edits.intervention import Edit, Intervention
from jola.edits.sites import Geometry, Site
from jola.errors import InputError
from jola.model.architectures import check_length, check_widths, geometry_of, head_path, module_path
from jola.model.checkpointing import Reapply, checkpointed
from jola.model.packing import (
    Beginning,
    Packing,
    attention,
    beginning_of,
    can_share,
    chosen,
    has_variable_length_attention,
    is_greedy,
    is_packed_alike,
    packed_attention,
    packing_of,
    spread,
)
from jola.model.placement import main_device
from jola.model.recording import Record, Wanted
from jola.model.steps import Step, apply_steps, contiguous, hidden_of, last_column, new_tokens, on_hidden

__all__ = ["Plan", "Record", "TracedModel", "Wanted"]

Plan = Mapping[tuple[int, Site], Edit]
"""The edits of one pass by (layer, site), in the order in which the pass reaches them."""


class _Model(nnsight.TransformersModel):
    """The model class of nnsight, which moves the input of a pass to the main device of the model."""

    @property
    def device(self) -> torch.device:
        """The main device. The first parameter, whose device nnsight would use, may be on disk."""
        base: Any = self._module
        return main_device(base)


class TracedModel:
    """A frozen decoder whose activations can be read and edited.

    Passes raise `InputError` for texts that are too long for the learned positions of the model, see `check_length`.

    Args:
        base: A loaded decoder of transformers, in evaluation mode.
        tokenizer: Its tokenizer.

    Raises:
        InputError: The architecture is unknown, or the model does not match jola/model/architectures.py.
    """

    def __init__(self, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.base = base
        self.tokenizer = tokenizer
        self.geometry: Geometry = geometry_of(base)
        # transformers renames it in 5.20.
        self._forward_arguments = set(inspect.signature(base.forward).parameters)
        self._cache_name = "cache" if "cache" in self._forward_arguments else "past_key_values"
        self._packed_alike: dict[str | None, bool] = {}
        self.lock = threading.RLock()
        """Held while the model runs; nnsight allows one tracing thread at a time."""
        self.wrap()
        self._check_sites()

    @property
    def device(self) -> torch.device:
        """Device of the input and the logits."""
        return main_device(self.base)

    def place(self, intervention: Intervention) -> Intervention:
        """Move an intervention to the device of the model; edits of weights are on the devices of their layers."""
        return intervention if intervention.site is Site.WEIGHTS else intervention.to(self.device)

    def wrap(self) -> None:
        """Wrap the model with nnsight; needed again after modules were replaced."""
        self._nn: Any = _Model(self.base, task="text-generation", tokenizer=self.tokenizer)
        self._envoys: dict[tuple[Site, int], Any] = {}
        self._head = self._nn.get(head_path(self.base))

    def run(
        self,
        inputs: dict[str, Tensor],
        plan: Plan,
        rows: Tensor | None = None,
        *,
        packing: Packing | None = None,
        reapply_weights: Reapply | None = None,
    ) -> Tensor:
        """Logits of one edited pass.

        Args:
            inputs: Tensors for the forward method of the model.
            rows: (batch, tokens), true where logits are computed; None means everywhere.
            packing: Packing of the batch, from `packing` with the same `rows`; `plan` must be for the packed pass.
            reapply_weights: If given, the backward pass recomputes the layers; see `jola.model.checkpointing`.

        Returns:
            (batch, tokens, vocabulary), or with `rows` (chosen positions, vocabulary) in row-major order.
        """
        check_length(self.base, inputs)
        with self.lock, checkpointed(self.base, plan, reapply_weights, self.lock):
            if rows is not None and packing is not None:
                return self._run_packed(inputs["input_ids"], plan, rows, packing)
            return self._run(inputs, plan, rows)

    def packing(self, inputs: dict[str, Tensor], rows: Tensor, edited_alike: Tensor | None = None) -> Packing | None:
        """Packing of a batch, see `packing_of`; None if the batch is not packed."""
        with self.lock:
            if not self._packs():
                return None
            joined = has_variable_length_attention(self.base)
            mask = inputs.get("attention_mask")
            return packing_of(inputs["input_ids"], mask, rows, edited_alike, variable_length=joined)

    def _run(self, inputs: dict[str, Tensor], plan: Plan, rows: Tensor | None, **others: Any) -> Tensor:
        answer: list[Tensor] = []

        def run(**kwargs: Any) -> None:
            answer.append(self.base(**kwargs, **{"use_cache": False, **others}).logits)

        if not plan and rows is None:
            run(**inputs)
            return answer[0]
        tail = None if rows is None else self._tail
        steps = self._steps({place: edit for place, edit in plan.items() if not tail or place not in tail})
        with self._nn.trace(fn=run, **inputs):
            apply_steps(steps)
            if rows is not None:
                self._finish(plan, rows)
        return answer[0]

    def _run_packed(self, ids: Tensor, plan: Plan, rows: Tensor, packing: Packing) -> Tensor:
        with packed_attention(self.base):
            return self._run(packing.inputs(ids), plan, packing.pack(rows).unsqueeze(0), **packing.for_attention())

    def _packs(self) -> bool:
        """Whether the model supports packed passes with its current attention implementation."""
        name = self.base.config._attn_implementation
        if name not in self._packed_alike:
            self._packed_alike[name] = is_packed_alike(self.base, self._run, self._run_packed)
        return self._packed_alike[name]

    def generate(
        self,
        inputs: dict[str, Tensor],
        plan: Plan,
        arguments: Mapping[str, Any],
        *,
        later: Plan | None = None,
        uniform: bool = False,
    ) -> Any:
        """Call ``generate`` of transformers, with the edits of `plan` in the pass over the prompts.

        Args:
            inputs, plan: As for `run`.
            arguments: As for ``generate`` of transformers.
            later: The edits of decoding steps, at sites of `plan`; None uses those of `plan`.
            uniform: Whether all positions of all rows are edited in the same way. If so, greedy generation runs a
                common beginning of the prompts once, where that saves time.
        """
        check_length(self.base, inputs, new_tokens(arguments, inputs["input_ids"].shape[-1]))
        with self.lock:
            if uniform and is_greedy(arguments) and can_share(self.base):
                beginning = beginning_of(inputs["input_ids"], inputs["attention_mask"])
                if beginning:
                    return self._generate_after(inputs, plan, arguments, beginning)
            return self._generate(inputs, plan, arguments, plan if later is None else later)

    def _generate(self, inputs: dict[str, Tensor], plan: Plan, arguments: Mapping[str, Any], later: Plan) -> Any:
        answer: list[Any] = []

        def generate(**kwargs: Any) -> Any:
            base: Any = self.base
            with base.get_output_embeddings().register_forward_pre_hook(contiguous):
                return base.generate(**kwargs, **arguments)

        def run(**kwargs: Any) -> None:
            answer.append(generate(**kwargs))

        if not plan:
            return generate(**inputs)
        steps, decoding = self._steps(plan), self._steps(later)
        if not later:  # a loop without an edit would not end
            with self._nn.trace(fn=run, **inputs):
                apply_steps(steps)
            return answer[0]
        with warnings.catch_warnings():
            # The loop below ends by requesting one step more than the model runs, of which nnsight warns.
            warnings.filterwarnings("ignore", message=".*tracer\\.iter.*")
            with self._nn.trace(fn=run, **inputs) as tracer:
                for step in tracer.iter[:]:
                    apply_steps(decoding if step else steps)
        return answer[0]

    def _generate_after(
        self, inputs: dict[str, Tensor], plan: Plan, arguments: Mapping[str, Any], beginning: Beginning
    ) -> Tensor:
        ids, mask = (inputs[name].gather(1, beginning.order) for name in ("input_ids", "attention_mask"))
        cache = self._after_beginning(ids, mask, plan, beginning.tokens)
        arguments = {**arguments, self._cache_name: cache}
        answer = self._generate({"input_ids": ids, "attention_mask": mask}, plan, arguments, plan)
        return torch.cat([inputs["input_ids"], answer[:, ids.shape[1] :]], 1)

    def continue_prompts(
        self,
        inputs: dict[str, Tensor],
        plan: Plan,
        answers: Tensor,
        real: Tensor,
        owners: Tensor,
        *,
        later: Plan,
        uniform: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Logits of given answers, several to each prompt, from one pass over the prompts and one over the answers.

        Args:
            inputs: ``input_ids`` and ``attention_mask`` of the prompts, padded on the left.
            plan: The edits of the pass over the prompts.
            answers: (answers, tokens), padded on the right.
            real: (answers, tokens) of bool, false at padding. Every answer has at least one token.
            owners: (answers,): row of the prompt of each answer.
            later: The edits of the pass over the answers.
            uniform: As for `generate`.

        Returns:
            The logits of the first token after each prompt, (prompts, vocabulary), and of the later tokens of the
            answers, (tokens, vocabulary), in row-major order.
        """
        with self.lock:
            ids, mask, cache = inputs["input_ids"], inputs["attention_mask"], None
            beginning = beginning_of(ids, mask) if uniform else None
            if beginning:
                ids, mask = ids.gather(1, beginning.order), mask.gather(1, beginning.order)
                cache = self._after_beginning(ids, mask, plan, beginning.tokens)
                ids = ids[:, beginning.tokens :]
            cache = cache or DynamicCache(config=self.base.config)
            first = self._extend(cache, ids, mask, plan, last_column(ids))
            if answers.shape[1] == 1:
                return first, first[:0]
            cache.batch_select_indices(owners)
            seen = torch.cat([mask[owners], real[:, :-1].to(mask)], 1)
            return first, self._extend(cache, answers[:, :-1], seen, later, real[:, 1:])

    def _after_beginning(self, ids: Tensor, mask: Tensor, plan: Plan, tokens: int) -> DynamicCache:
        """Keys and values of the common beginning of all prompts, repeated for every row."""
        cache, first = DynamicCache(config=self.base.config), ids[:1, :tokens]
        # Only the keys and values are used, but the pass must compute the logits of at least one position.
        self._extend(cache, first, mask[:1, :tokens], plan, last_column(first))
        cache.batch_repeat_interleave(len(ids))
        return cache

    def _extend(self, cache: DynamicCache, ids: Tensor, mask: Tensor, plan: Plan, rows: Tensor) -> Tensor:
        """Logits at `rows` of a pass over `ids` that extends the cache; `mask` covers the cache and `ids`."""
        inputs = {"input_ids": ids, "attention_mask": mask}
        check_length(self.base, inputs)
        if "position_ids" in self._forward_arguments:
            inputs["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        return self._run(inputs, plan, rows, **{self._cache_name: cache}, use_cache=True)

    def record(
        self,
        inputs: dict[str, Tensor],
        plan: Plan,
        wanted: Wanted | None = None,
        *,
        rows: Tensor | None = None,
        start: Mapping[int, Tensor] | None = None,
        uniform: bool = False,
    ) -> Record:
        """Run one edited pass that records activations or starts in the middle of the model.

        Args:
            inputs, plan, rows: As for `run`.
            uniform: Whether all positions of all rows are edited in the same way. If so, and with `rows`, the batch is
                packed where that saves time.
            wanted: The activations to record.
            start: Rows of the residual stream, (rows, tokens, hidden), by the layer that they enter. Layers before the
                first key are skipped. At each later key, its rows are appended to those of the pass; the number of
                layers as a key skips all layers. `inputs` are then a batch of one and give only the positions of the
                tokens, and `rows` and `plan` are for all rows of the pass.
        """
        wanted = wanted or Wanted()
        check_length(self.base, inputs)
        with self.lock:
            if rows is not None and uniform and not start and (packing := self.packing(inputs, rows)):
                return self._record_packed(inputs["input_ids"], plan, wanted, rows, packing)
            return self._record(inputs, plan, wanted, rows, start or {})

    def _record(
        self,
        inputs: dict[str, Tensor],
        plan: Plan,
        wanted: Wanted,
        rows: Tensor | None,
        start: Mapping[int, Tensor],
        **others: Any,
    ) -> Record:
        answer: list[Tensor] = []

        def run(**kwargs: Any) -> None:
            answer.append(self.base(**kwargs, **others, use_cache=False).logits)

        layers, first = self.geometry.num_layers, min(start, default=0)
        result = Record(torch.empty(0))
        with self._nn.trace(fn=run, **inputs):
            for layer in range(first):
                self._at(layer, Site.BLOCK).skip(start[first])
            for layer in range(first, layers):
                if layer in start and layer == first == 0:
                    self._at(layer, Site.BLOCK).input = start[layer]
                elif layer in start and layer > first:
                    block = self._at(layer, Site.BLOCK)
                    under_way = block.input
                    block.input = torch.cat([under_way, start[layer].to(under_way.device)])
                self._keep_layer(layer, plan, wanted, result, rows)
            if rows is not None and first < layers:
                self._finish(plan, rows, (wanted, result))
            elif rows is not None:
                self._head.input = chosen(self._head.input, rows)
        result.logits = answer[0]
        # The MLP of OPT works on (batch · tokens, width).
        tokens = inputs["input_ids"].shape[-1]
        result.mlp = {layer: output.reshape(-1, tokens, output.shape[-1]) for layer, output in result.mlp.items()}
        return result

    def _record_packed(self, ids: Tensor, plan: Plan, wanted: Wanted, rows: Tensor, packing: Packing) -> Record:
        packing = replace(packing, weights=bool(wanted.attention))
        with packed_attention(self.base):
            inputs, at = packing.inputs(ids), packing.pack(rows).unsqueeze(0)
            result = self._record(inputs, plan, wanted, at, {}, **packing.for_attention())
        for kept in (result.entering, result.heads, result.projected, result.mlp):
            kept.update({layer: packing.unpack(values) for layer, values in kept.items()})
        return result

    @contextmanager
    def plain_attention(self) -> Iterator[None]:
        """Use eager attention inside the block, which holds the lock.

        Fused implementations do not compute the weights that `Wanted.attention` requests.
        """
        with self.lock, attention(self.base, "eager"):
            yield

    @property
    def _tail(self) -> tuple[tuple[int, Site], ...]:
        """The sites of which `_finish` applies the edits."""
        last = self.geometry.num_layers - 1
        return (last, Site.MLP), (last, Site.BLOCK)

    def _finish(self, plan: Plan, rows: Tensor, keep: tuple[Wanted, Record] | None = None) -> None:
        """Run the last MLP and the head only at the chosen positions, within a trace; values elsewhere are unused."""
        (mlp, block), last = self._tail, self._at(*self._tail[0])
        shape = last.input.shape
        # The input is 2-D, because PyTorch would expand the weight for a 3-D one.
        last.input = chosen(last.input.flatten(0, -2), rows.flatten())
        output = spread(last.output, rows, shape)
        last.output = plan[mlp](output) if mlp in plan else output
        envoy = self._at(*block)
        if block in plan:
            envoy.output = on_hidden(plan[block], envoy.output)
        if keep is not None:
            wanted, result = keep
            if mlp[0] in wanted.mlp:
                result.mlp[mlp[0]] = output
            if self.geometry.num_layers in wanted.entering:
                result.entering[self.geometry.num_layers] = hidden_of(envoy.output)
        self._head.input = chosen(self._head.input, rows)

    def _keep_layer(self, layer: int, plan: Plan, wanted: Wanted, result: Record, rows: Tensor | None) -> None:
        """Record and edit the activations of one layer, within a trace; with `rows`, `_finish` runs the tail."""
        block, heads, mlp = (self._at(layer, site) for site in (Site.BLOCK, Site.HEADS, Site.MLP))
        if layer in wanted.entering:
            result.entering[layer] = block.input
        if layer in wanted.heads:
            result.heads[layer] = heads.input
        if edit := plan.get((layer, Site.HEADS)):
            heads.input = edit(heads.input)
        if edit := plan.get((layer, Site.ATTENTION)):
            heads.output = edit(heads.output)
        if layer in wanted.projected:
            result.projected[layer] = heads.output
        if layer in wanted.attention:
            attention = self._nn.get(module_path(self.base, Site.HEADS, layer).rpartition(".")[0])
            result.attention[layer] = attention.output[1]
        if rows is not None and layer == self.geometry.num_layers - 1:
            return
        if layer in wanted.mlp:
            result.mlp[layer] = hidden_of(mlp.output)
        if edit := plan.get((layer, Site.MLP)):
            mlp.output = on_hidden(edit, mlp.output)
        if edit := plan.get((layer, Site.BLOCK)):
            block.output = on_hidden(edit, block.output)
        if layer + 1 == self.geometry.num_layers and layer + 1 in wanted.entering:
            result.entering[layer + 1] = hidden_of(block.output)

    def _steps(self, plan: Plan) -> "list[Step]":
        return [(self._at(*place), place[1], edit) for place, edit in plan.items()]

    def _at(self, layer: int, site: Site) -> Any:
        if (envoy := self._envoys.get((site, layer))) is None:
            envoy = self._envoys[site, layer] = self._nn.get(module_path(self.base, site, layer))
        return envoy

    @torch.no_grad()
    def _check_sites(self) -> None:
        """Run two tokens and raise `InputError` if the shape at a site does not match the geometry."""
        geometry, shapes = self.geometry, []
        tokens = torch.zeros(1, 2, dtype=torch.long, device=self.device)

        def run(**kwargs: Any) -> None:
            self.base(**kwargs, use_cache=False)

        try:
            with self.lock:
                with self._nn.trace(fn=run, input_ids=tokens, attention_mask=torch.ones_like(tokens)):
                    for layer in range(geometry.num_layers):
                        shapes.append((Site.HEADS, layer, self._at(layer, Site.HEADS).input.shape[-1]))
                        shapes.append((Site.MLP, layer, hidden_of(self._at(layer, Site.MLP).output).shape[-1]))
        except (AttributeError, OutOfOrderError) as error:
            raise InputError(
                f"A pass of this {geometry.architecture} model does not run the attention projection and then "
                f"the MLP of every layer ({str(error).splitlines()[-1]}); jola/model/architectures.py does not "
                "describe it correctly."
            ) from error
        check_widths(geometry, shapes)
