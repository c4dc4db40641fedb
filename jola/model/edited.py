"""`EditedModel`: a frozen language model and the interventions that edit it. `jola.model.tracing` runs the passes."""

import inspect
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import CausalLMOutput

from jola.data.examples import IGNORED, Encoded, collate, collate_prompts, pad_token_of
from jola.edits.gated import GatedEdits
from jola.edits.intervention import Edit, EditMask, Intervention, edited_weights
from jola.edits.sites import Geometry, Site
from jola.errors import InputError
from jola.methods import Method, method_of_settings
from jola.model.packing import Packing, can_share
from jola.model.placement import FrozenWeights, refuse_spread
from jola.model.quantization import count
from jola.model.steps import before_labels, log_probabilities, rows_of, then
from jola.model.tracing import Plan, TracedModel

Masks = EditMask | Mapping[str, EditMask] | Sequence[EditMask | None] | None
"""One mask for all interventions in use, one for each site, or one for each intervention, in their order."""

SITE_ORDER = {site: position for position, site in enumerate(Site)}


class EditedModel(nn.Module):
    """A frozen causal language model with trainable edits (paper, section 3); `jola.JoLAModel` loads and saves it.

    PyTorch sees only the parameters of the interventions: ``state_dict``, ``parameters``, optimizers and checkpoints
    contain a few thousand numbers. The frozen model is available as `base`.

    Args:
        base: A loaded decoder of transformers; it is frozen and set to evaluation mode.
        tokenizer: Its tokenizer.
        edits: Settings of a method, an instance of its ``settings`` class: an `EditConfig` for JoLA (the default), a
            `jola.methods.lora.LoRAConfig` for LoRA, and so on.
        seed: Seed for initializing the edits and gates.
        traced: Runs the passes; by default nnsight in this process.
    """

    def __init__(
        self,
        base: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        edits: Any = None,
        *,
        name: str = "",
        revision: str | None = None,
        quantize: str = "none",
        seed: int = 0,
        traced: TracedModel | None = None,
    ) -> None:
        super().__init__()
        base.requires_grad_(False)
        base.eval()
        # Not registered with PyTorch: the frozen weights are not part of this module's state.
        object.__setattr__(self, "base", base)
        self.base: PreTrainedModel
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        self.tokenizer = tokenizer
        self.config = base.config
        self.name = name or base.config.name_or_path or "unnamed"
        self.revision = revision
        self.quantize = quantize
        """How the frozen model is quantized: 'none' or one of `jola.model.quantization.PACKAGES`."""
        method, settings = method_of_settings(edits)
        self.traced = traced or TracedModel(base, tokenizer)
        """The frozen model wrapped by nnsight, for passes that record activations or start in the middle."""
        self.geometry: Geometry = self.traced.geometry
        self.gradient_checkpointing = False
        """Whether training passes store few activations and the backward pass recomputes the others. On accelerators,
        it takes `lock` in another thread: calling ``backward()`` in a thread that holds the lock would wait forever."""
        self._forward_arguments = set(inspect.signature(base.forward).parameters)
        self._calling_thread = threading.local()
        self._attach(method, settings, seed)

    def _attach(self, method: Method, settings: Any, seed: int) -> None:
        interventions = nn.ModuleList(method.attach(self.traced, settings))
        self.method, self.edit_config, self.interventions = method, settings, interventions
        self.reset_edits(seed)
        for intervention in self.own_interventions():
            self.traced.place(intervention)
        # In evaluation mode, like models of transformers after loading; gates have noise only after `train()`.
        self.eval()

    def replace_edits(self, edits: Any, seed: int = 0) -> None:
        """Replace the model's own edits with new ones, or raise and keep them; arguments as for the class."""
        method, settings = method_of_settings(edits)
        replaced = self.own_interventions()
        self._attach(method, settings, seed)
        self.detach(replaced)

    def resize_token_embeddings(self, size: int) -> Any:
        """Resize the embeddings of the frozen model, as in transformers. `InputError` if it is spread or divided."""
        refuse_spread(self.base, "Resizing the embeddings")
        with self.lock:
            embeddings = self.base.resize_token_embeddings(size)
            # The embedding and the head are new modules: they must not train, and nnsight must wrap them.
            for new in filter(None, (self.base.get_input_embeddings(), self.base.get_output_embeddings())):
                new.requires_grad_(False)
            self.traced.wrap()
        return embeddings

    @property
    def lock(self) -> threading.RLock:
        """Held during every pass. Hold it for several passes in a row, but not while `backward` recomputes layers."""
        return self.traced.lock

    @property
    def device(self) -> torch.device:
        """Device of the input, the logits and the edits; layers may be on others. See `jola.model.placement`."""
        return self.traced.device

    @property
    def hf_device_map(self) -> Mapping[str, Any]:
        """Devices of the frozen model. Trainer reads this and does not move a model that is placed elsewhere."""
        return getattr(self.base, "hf_device_map", None) or {"": str(self.device)}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "EditedModel":
        """Apply only the dtype of ``fn``; the edits stay on the devices of the layers that they edit."""
        return super()._apply(lambda tensor: tensor.to(fn(tensor.new_empty(0)).dtype), recurse)

    @property
    def edits(self) -> GatedEdits:
        """The first gated edits in the order of sites: those at the attention heads if the heads are edited.

        Raises:
            InputError: The method has no gated edits.
        """
        if gated := self.gated_edits():
            return gated[0]
        raise InputError(f"The method {self.method.title} has no gated edits; see `interventions`.")

    def own_interventions(self) -> list[Intervention]:
        """The interventions that the method attached, in the order of the sites."""
        own: Any = self.interventions
        return list(own)

    def gated_edits(self) -> list[GatedEdits]:
        """All gated edits, in the order of their sites."""
        return [i for i in self.interventions if isinstance(i, GatedEdits)]

    def frozen_parameters(self) -> FrozenWeights:
        """The weights of the frozen model by their names in its checkpoint, without the layers added by methods.

        Weights on disk are read on access. Quantized weights are returned as they are stored.
        """
        return FrozenWeights(self.base)

    def detach(self, interventions: Sequence[Intervention]) -> None:
        """Remove the layers that interventions added to the frozen model; these cannot be used afterwards."""
        with self.lock:
            for intervention in interventions:
                intervention.detach_from(self.base)
            self.traced.wrap()

    def reset_edits(self, seed: int) -> None:
        """Initialize the edits again; the same seed gives the same numbers."""
        generator = torch.Generator().manual_seed(seed)
        for intervention in self.own_interventions():
            intervention.reset(generator)

    def seed_gates(self, seed: int) -> None:
        """Seed the noise of the next training pass."""
        for position, intervention in enumerate(self.own_interventions()):
            intervention.seed(seed + position)

    @property
    def in_use(self) -> tuple[Intervention, ...]:
        """The interventions that edit the passes of the calling thread: the model's own or those of `using`."""
        chosen = getattr(self._calling_thread, "in_use", None)
        return tuple(self.own_interventions()) if chosen is None else chosen

    @contextmanager
    def using(self, interventions: Sequence[Intervention]) -> Iterator[None]:
        """Use other interventions inside the block, in the calling thread; other threads are not affected.

        Interventions at the same site are applied in order: each edits the output of the one before. An empty sequence
        gives the base model. The interventions must be on the device of the model, where `jola.load_edits` puts them.
        """
        before = getattr(self._calling_thread, "in_use", None)
        self._calling_thread.in_use = tuple(interventions)
        try:
            yield
        finally:
            self._calling_thread.in_use = before

    def disable_edits(self) -> AbstractContextManager[None]:
        """Use the base model inside the block, in the calling thread; other threads are not affected."""
        return self.using(())

    def trainable_parameters(self) -> tuple[int, int]:
        """(number of trainable parameters, number of parameters of the frozen model)."""
        own = {id(p) for p in self.parameters()}
        frozen = sum(count(p) for p in self.base.parameters() if id(p) not in own)
        return sum(i.trainable_count() for i in self.own_interventions()), frozen

    def print_trainable_parameters(self) -> None:
        """Print the number of trainable parameters and their share of the model, as peft does."""
        trainable, frozen = self.trainable_parameters()
        sys.stdout.write(
            f"trainable params: {trainable:,} || all params: {frozen + trainable:,} "
            f"|| trainable%: {100 * trainable / (frozen + trainable):.4f}\n"
        )

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        positions: Tensor | Literal["last"] | None = None,
        prompt_lengths: Tensor | int | None = None,
        mask: Masks = None,
        strength: float = 1.0,
        reduction: Literal["token", "answer"] = "token",
    ) -> CausalLMOutput:
        """Run one edited pass.

        Args:
            input_ids: (batch, tokens). `InputError` if a row is too long for the learned positions of the model.
            attention_mask: (batch, tokens), 1 on real tokens; padding may be left or right.
            labels: (batch, tokens), −100 where there is no loss. With labels, the language-model head runs only at the
                positions whose next token has a label.
            positions: Where to compute logits if there are no labels: (batch, tokens) of bool, or 'last' for the last
                real token of each row. The language-model head runs only there.
            prompt_lengths: Number of real tokens in the prompt of each row, for methods that edit positions of the
                prompt: (batch,), or one number for all rows. With None, the prompt is all tokens before the first label
                of a row, or all tokens if there are no labels.
            mask: Switches and strengths of single edits, for this call only: one mask for all interventions in use, one
                for each site, or a sequence with one (or None) for each intervention in use.
            strength: Factor on every edit.
            reduction: 'token' averages the cross-entropy over answer tokens; 'answer' sums it over each answer and
                averages over the batch, which gives the negative log-likelihood of an answer.

        Returns:
            Without labels, ``logits`` is (batch, tokens, vocabulary), or (chosen positions, vocabulary) with
            `positions`. With labels, it is (answer tokens, vocabulary), and ``loss`` is their cross-entropy in nats.
            Chosen positions and answer tokens are in row-major order of the batch.
        """
        inputs = self.inputs(input_ids, attention_mask)
        if prompt_lengths is None and labels is not None:
            prompt_lengths = before_labels(labels.to(self.device), inputs.get("attention_mask"))
        prompt = self.prompt_tokens(inputs, prompt_lengths)
        if labels is None:
            return CausalLMOutput(logits=self._run(inputs, rows_of(inputs, positions), mask, strength, prompt))
        if positions is not None:
            raise ValueError("Give labels or positions, not both: labels define where logits are computed.")
        answers = labels[:, 1:].to(self.device)
        rows = answers != IGNORED
        if not bool(rows.any()):
            raise InputError("No position of this batch has a label; give at least one answer token.")
        logits = self._run(inputs, F.pad(rows, (0, 1)), mask, strength, prompt)
        loss = F.cross_entropy(logits.float(), answers[rows], reduction="sum")
        count = int(rows.sum()) if reduction == "token" else len(rows)
        return CausalLMOutput(loss=loss / count, logits=logits)

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        mask: Masks = None,
        strength: float = 1.0,
        **arguments: Any,
    ) -> Tensor:
        """Generate with a key-value cache and with the edits at every token of the prompt and the answer.

        For methods that edit positions of the prompt, all given tokens are the prompt, and the cache is needed.

        Args:
            input_ids: (batch, tokens); pad on the left. `InputError` if a row, with its answer, is too long.
            attention_mask: (batch, tokens).
            arguments: Arguments of ``generate`` in transformers: max_new_tokens, do_sample, streamer, eos_token_id, …

        Returns:
            (batch, tokens + new tokens), as in transformers.
        """
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        inputs = {"input_ids": input_ids.to(self.device), "attention_mask": real.to(self.device)}
        # The configuration of a model may switch the cache off.
        arguments = {"pad_token_id": self.tokenizer.pad_token_id, "use_cache": True} | arguments
        uniform = all(i.uniform for i in self.in_use)
        if not uniform and not arguments["use_cache"]:
            raise ValueError("These edits depend on positions of the prompt and need the cache; leave use_cache out.")
        prompt = self.prompt_tokens(inputs)
        with self.editing(mask, strength, len(input_ids), prompt) as plan:
            later = plan if uniform else self.plan(mask, strength, len(input_ids), torch.zeros_like(prompt[:, :1]))
            return self.traced.generate(inputs, plan, arguments, later=later, uniform=self._uniform(mask))

    @torch.no_grad()
    def answer_log_likelihoods(
        self,
        prompts: Sequence[Sequence[int]],
        answers: Sequence[tuple[int, Sequence[int]]],
        *,
        mask: Masks = None,
        strength: float = 1.0,
    ) -> Tensor:
        """ln p(answer | prompt), in nats, of several answers to each prompt, with one pass per prompt where possible.

        Args:
            prompts: Token ids of each prompt.
            answers: For each answer, the index of its prompt and its token ids, at least one.
            mask: As for `forward`, with one row for all prompts.
            strength: As for `forward`.

        Returns:
            (answers,), float32 on the CPU.
        """
        pad = pad_token_of(self.tokenizer)
        if not can_share(self.base):
            batch = collate([Encoded([*prompts[row], *ids], len(prompts[row])) for row, ids in answers], pad)
            targets = batch["labels"][:, 1:]
            real = targets != IGNORED
            each = log_probabilities(self(**batch, mask=mask, strength=strength).logits, targets[real])
            return torch.zeros(len(answers)).index_add(0, real.nonzero()[:, 0], each)
        inputs = {name: values.to(self.device) for name, values in collate_prompts(prompts, pad).items()}
        ids = pad_sequence([torch.tensor(ids) for _, ids in answers], batch_first=True).to(self.device)
        owners = torch.tensor([row for row, _ in answers], device=self.device)
        lengths = torch.tensor([len(ids) for _, ids in answers], device=self.device)
        real = torch.arange(ids.shape[1], device=self.device) < lengths[:, None]
        with self.editing(mask, strength, len(prompts), self.prompt_tokens(inputs)) as plan:
            later = self.plan(mask, strength, len(ids), torch.zeros_like(real[:, 1:]))
            first, others = self.traced.continue_prompts(
                inputs, plan, ids, real, owners, later=later, uniform=self._uniform(mask)
            )
        each = torch.zeros(real.shape)
        each[:, 0] = log_probabilities(first[owners.to(first.device)], ids[:, 0])
        each[:, 1:][real[:, 1:]] = log_probabilities(others, ids[:, 1:][real[:, 1:]])
        return each.sum(1)

    def inputs(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        """The arguments of one pass of the frozen model, on its device. See `forward`."""
        inputs = {"input_ids": input_ids.to(self.device)}
        if attention_mask is not None:
            inputs["attention_mask"] = attention_mask.to(self.device)
            if "position_ids" in self._forward_arguments and not bool(attention_mask[:, 0].all()):
                # With left padding, positions count only real tokens, as in an unpadded pass.
                inputs["position_ids"] = (inputs["attention_mask"].long().cumsum(-1) - 1).clamp(min=0)
        return inputs

    def prompt_tokens(self, inputs: Mapping[str, Tensor], lengths: Tensor | int | None = None) -> Tensor:
        """The positions of the prompts in a batch, for `plan`: (batch, tokens) of bool, false at padding.

        Args:
            inputs: The result of `inputs`.
            lengths: Number of real tokens of each prompt, (batch,) or one number; with None, all tokens of each row.
        """
        ids = inputs["input_ids"]
        real = inputs.get("attention_mask", torch.ones_like(ids)) > 0
        if lengths is None:
            return real
        lengths = torch.as_tensor(lengths, device=ids.device).reshape(-1, 1)
        if len(lengths) not in (1, len(ids)):
            raise ValueError(f"There are {len(lengths)} prompt lengths for {len(ids)} rows; give one for each.")
        return real & (real.cumsum(1) <= lengths)

    @contextmanager
    def editing(
        self,
        mask: Masks = None,
        strength: float = 1.0,
        batch: int = 1,
        prompt: Tensor | None = None,
        packing: Packing | None = None,
    ) -> Iterator[Plan]:
        """Edit the weights inside the block, which holds the lock, and yield the plan of the edits of activations.

        Run passes of `traced` with the interventions in use inside this block. Arguments and errors as for `plan`.
        """
        with self.lock, edited_weights(self.in_use, self.masks(mask), strength):
            yield self.plan(mask, strength, batch, prompt, packing)

    def plan(
        self,
        mask: Masks,
        strength: float,
        batch: int,
        prompt: Tensor | None = None,
        packing: Packing | None = None,
    ) -> Plan:
        """The edits of one pass over a batch of `batch` rows, in the order in which the pass reaches them.

        Args:
            prompt: Positions of the prompts; see `prompt_tokens` and `Intervention.prepare_at`.
            packing: Packing of the batch in this pass.

        Raises:
            ValueError: The mask does not fit the interventions in use.
        """
        edits: dict[tuple[int, Site], Edit] = {}
        packed = None if packing is None else packing.source
        for intervention, own in zip(self.in_use, self.masks(mask), strict=True):
            if own is not None and own.rows not in (1, batch):
                raise ValueError(f"The mask has {own.rows} rows, but the batch has {batch}.")
            for layer, edit in intervention.prepare_at(prompt, own, strength, packed).items():
                place = layer, intervention.site
                edits[place] = then(edits[place], edit) if place in edits else edit
        return dict(sorted(edits.items(), key=lambda item: (item[0][0], SITE_ORDER[item[0][1]])))

    def masks(self, mask: Masks) -> list[EditMask | None]:
        """The mask of each intervention in use."""
        used = self.in_use
        if not used or mask is None or isinstance(mask, EditMask):
            return [mask if isinstance(mask, EditMask) else None] * len(used)
        if not isinstance(mask, Mapping):
            if len(mask) != len(used):
                raise ValueError(f"There are {len(mask)} masks for {len(used)} interventions; give one for each.")
            return list(mask)
        if unknown := set(mask) - {i.site for i in used}:
            sites = " and ".join(dict.fromkeys(i.site for i in used))
            raise ValueError(f"There is a mask for {', '.join(sorted(unknown))}, but this model has edits at {sites}.")
        return [mask.get(i.site) for i in used]

    def _run(
        self, inputs: dict[str, Tensor], rows: Tensor | None, mask: Masks, strength: float, prompt: Tensor
    ) -> Tensor:
        checkpointing = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        reapply = partial(edited_weights, self.in_use, self.masks(mask), strength) if checkpointing else None
        with self.lock:
            packing = None if rows is None else self._packing(inputs, rows, mask, prompt)
            with self.editing(mask, strength, len(inputs["input_ids"]), prompt, packing) as plan:
                return self.traced.run(inputs, plan, rows, packing=packing, reapply_weights=reapply)

    def _packing(self, inputs: dict[str, Tensor], rows: Tensor, mask: Masks, prompt: Tensor) -> Packing | None:
        """Packing of a batch with the edits in use; None if the batch is not packed."""
        alike = prompt.new_ones(prompt.shape[1])
        for intervention, own in zip(self.in_use, self.masks(mask), strict=True):
            columns = None if own is not None and own.by_row else intervention.alike(prompt)
            if columns is None:
                return None
            alike &= columns
        return self.traced.packing(inputs, rows, alike)

    def _uniform(self, mask: Masks) -> bool:
        """Whether the edits in use are the same at all positions of all rows."""
        return all(i.uniform and not (m and m.by_row) for i, m in zip(self.in_use, self.masks(mask), strict=True))
