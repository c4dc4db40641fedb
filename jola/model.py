"""`JoLAModel`: a frozen language model and the interventions that edit it, run through nnsight.

This is the only file that imports nnsight. Two rules of nnsight 0.8 shape it: a model may be traced by one thread at
a time (`JoLAModel.lock`), and an intervention in a generation loop has to be written inside ``tracer.iter[:]``, or it
edits the prompt alone.
"""

import inspect
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

# nnsight gives every Python object a `save` attribute, after which this module cannot be imported any more.
import anyio.streams.file  # noqa: F401  # imported for that reason alone
import nnsight
import torch
import torch.nn.functional as F
from nnsight.intervention.interleaver import OutOfOrderError
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import CausalLMOutput

from jola.config import EditConfig, RunConfig, parse_heads, parse_layers
from jola.errors import InputError
from jola.examples import IGNORED
from jola.interventions import Edit, EditMask, GatedEdits, Intervention, Site
from jola.loading import load_base
from jola.sites import Geometry, geometry_of, head_path, module_path, sites_of

Masks = EditMask | Mapping[str, EditMask] | None


class JoLAModel(nn.Module):
    """A frozen causal language model with trainable edits (paper, section 3).

    Only the interventions have parameters as far as PyTorch is concerned: ``state_dict``, ``parameters``, optimisers
    and checkpoints see a few thousand numbers. The frozen model is reached as `base`.

    Args:
        base: A loaded decoder of transformers; it is frozen and put into evaluation mode.
        tokenizer: Its tokenizer.
        edits: What may be edited; None is the method's default, all attention heads.
        seed: Seed of the fresh edits and gates.
    """

    def __init__(
        self,
        base: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        edits: EditConfig | None = None,
        *,
        name: str = "",
        revision: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        base.requires_grad_(False)
        base.eval()
        # Kept out of PyTorch's registry: the frozen weights are not part of this module's state.
        object.__setattr__(self, "base", base)
        self.base: PreTrainedModel
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        self.tokenizer = tokenizer
        self.config = base.config
        self.name = name or base.config.name_or_path or ""
        self.revision = revision
        self.edit_config = RunConfig(edits=edits or EditConfig()).validate().edits
        self.geometry: Geometry = geometry_of(base)
        self.lock = threading.RLock()
        self._wrap()
        self._forward_arguments = set(inspect.signature(base.forward).parameters)
        self._calling_thread = threading.local()
        self._check_sites()
        self.interventions = nn.ModuleList(build_edits(self.edit_config, self.geometry))
        self.reset_edits(seed)
        self.interventions.to(base.device)
        # As transformers hands models out: the gates have noise only after `train()`.
        self.eval()

    @classmethod
    def from_pretrained(
        cls,
        model: str = "default",
        *,
        edits: EditConfig | None = None,
        revision: str | None = None,
        dtype: str = "auto",
        device: str = "auto",
        attn_implementation: str = "auto",
        seed: int = 0,
    ) -> "JoLAModel":
        """Load a model with fresh edits.

        Args:
            model: 'default', a Hub id, a local folder or a GGUF file.
            dtype: 'float32', 'bfloat16', 'float16', or 'auto': bfloat16 where the processor computes in it.
            device: 'auto', 'cpu', 'cuda', …

        Raises:
            InputError: The model cannot be found or loaded, or its architecture is not known.
        """
        base, tokenizer, name = load_base(
            model, revision=revision, dtype=dtype, device=device, attn_implementation=attn_implementation
        )
        return cls(base, tokenizer, edits, name=name, revision=revision, seed=seed)

    @classmethod
    def from_adapter(
        cls, folder: Path | str, *, model: str | None = None, dtype: str = "auto", device: str = "auto"
    ) -> "JoLAModel":
        """Load the edits in an adapter directory together with the model they were trained on.

        Args:
            folder: Written by `save_pretrained`.
            model: The base model, when it is not where the adapter says.
        """
        from jola.adapter import load_adapter

        return load_adapter(folder, model=model, dtype=dtype, device=device)

    def save_pretrained(self, folder: Path | str, facts: Mapping[str, Any] | None = None) -> Path:
        """Write the edits as a self-describing adapter directory; `facts` (name → text) go into its README."""
        from jola.adapter import save_adapter

        return save_adapter(self, folder, facts)

    @classmethod
    def jola_from_pretrained(
        cls,
        pretrained_model_name_or_path: str,
        device: str | None = None,
        cache_dir: str | None = None,
        applied_module: str = "attention",
        base_model_name: str | None = None,
        **others: Any,
    ) -> "JoLAModel":
        """`from_pretrained` under the reference package's name and arguments.

        `cache_dir` and `base_model_name` change nothing there and nothing here; `applied_module` is 'attention', 'mlp'
        or 'both'.
        """
        sites = {"attention": "heads", "mlp": "mlp", "both": "both"}
        if applied_module not in sites:
            raise InputError(f"applied_module is {applied_module!r}; choose one of {', '.join(sites)}.")
        edits = EditConfig(sites=sites[applied_module], gate_start=0.0)  # type: ignore[arg-type]  # one of the three, as checked
        return cls.from_pretrained(pretrained_model_name_or_path, edits=edits, device=device or "auto", **others)

    def unfreeze_jola_params(self) -> "JoLAModel":
        """Make the edits and gates train, and nothing else; they do from the start."""
        self.base.requires_grad_(False)
        return self.requires_grad_(True)

    @property
    def model(self) -> "JoLAModel":
        """This model: scripts of the reference package say ``jola_model.model.train()``."""
        return self

    def resize_token_embeddings(self, size: int) -> Any:
        """As in transformers, on the frozen model."""
        with self.lock:
            embeddings = self.base.resize_token_embeddings(size)
            # The model has a new embedding and a new head now: neither trains, and nnsight knows neither.
            self.base.requires_grad_(False)
            self._wrap()
        return embeddings

    @property
    def device(self) -> torch.device:
        """Device of the frozen model and of the edits."""
        return self.base.device

    @property
    def edits(self) -> GatedEdits:
        """The edits at the attention heads, or the only ones there are."""
        return self.gated_edits()[0]

    def gated_edits(self) -> list[GatedEdits]:
        """All gated edits, in the order of their sites."""
        return [i for i in self.interventions if isinstance(i, GatedEdits)]

    def reset_edits(self, seed: int) -> None:
        """Fresh offsets, scales and gates; the same seed gives the same numbers."""
        generator = torch.Generator().manual_seed(seed)
        for edits in self.gated_edits():
            edits.reset(generator)

    def seed_gates(self, seed: int) -> None:
        """Seed the noise of the next training pass."""
        for position, edits in enumerate(self.gated_edits()):
            edits.noise.manual_seed(seed + position)

    @contextmanager
    def disable_edits(self) -> Iterator[None]:
        """Inside the block the model is the plain base model, for the thread that runs it; others are not affected."""
        before = self._edits_on
        self._calling_thread.edits_on = False
        try:
            yield
        finally:
            self._calling_thread.edits_on = before

    @property
    def _edits_on(self) -> bool:
        return getattr(self._calling_thread, "edits_on", True)

    def trainable_parameters(self) -> tuple[int, int]:
        """(numbers that train, numbers in the frozen model)."""
        trainable = sum(
            int(e.editable.sum()) * (e.width * len(e.halves) + len(e.gate_parameters())) for e in self.gated_edits()
        )
        return trainable, sum(p.numel() for p in self.base.parameters())

    def print_trainable_parameters(self) -> None:
        """Print how many numbers train, and their share of the model, as peft does."""
        trainable, frozen = self.trainable_parameters()
        print(  # noqa: T201  # printing is what it is asked for
            f"trainable params: {trainable:,} || all params: {frozen + trainable:,} "
            f"|| trainable%: {100 * trainable / (frozen + trainable):.4f}"
        )

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        mask: Masks = None,
        strength: float = 1.0,
        reduction: Literal["token", "answer"] = "token",
    ) -> CausalLMOutput:
        """One edited pass.

        Args:
            input_ids: (batch, tokens).
            attention_mask: (batch, tokens), 1 on real tokens; padding may be left or right.
            labels: (batch, tokens), −100 where there is no loss. The language-model head then runs only at the
                positions whose next token has a label.
            mask: Switches and strengths of single edits, for this call alone; one for each site when there are several.
            strength: Factor on every edit.
            reduction: Cross-entropy as the mean over answer tokens, or summed over each answer and averaged over the
                batch, which is the negative log-likelihood of an answer.

        Returns:
            Without labels ``logits`` is (batch, tokens, vocabulary). With labels it is (answer tokens, vocabulary), in
            row-major order of the batch, and ``loss`` is their cross-entropy in nats.
        """
        inputs = {"input_ids": input_ids.to(self.device)}
        if attention_mask is not None:
            inputs["attention_mask"] = attention_mask.to(self.device)
            if "position_ids" in self._forward_arguments and not bool(attention_mask[:, 0].all()):
                # Left padding: positions count real tokens, as in an unpadded pass.
                inputs["position_ids"] = (inputs["attention_mask"].long().cumsum(-1) - 1).clamp(min=0)
        if labels is None:
            return CausalLMOutput(logits=self._run(inputs, None, mask, strength))
        answers = labels[:, 1:].to(self.device)
        rows = answers != IGNORED
        if not bool(rows.any()):
            raise InputError("No position of this batch has a label; give at least one answer token.")
        logits = self._run(inputs, F.pad(rows, (0, 1)), mask, strength)
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
        """Generate with the edits at every token, prompt and answer alike, with the key-value cache.

        Args:
            input_ids: (batch, tokens); pad on the left.
            attention_mask: (batch, tokens).
            arguments: As for ``generate`` of transformers: max_new_tokens, do_sample, streamer, eos_token_id, …

        Returns:
            (batch, tokens + new tokens), as transformers does.
        """
        inputs = {"input_ids": input_ids.to(self.device)}
        inputs["attention_mask"] = (
            torch.ones_like(inputs["input_ids"]) if attention_mask is None else attention_mask.to(self.device)
        )
        arguments.setdefault("pad_token_id", self.tokenizer.pad_token_id)
        generate: Any = self.base.generate
        with self.lock:
            plan = self._plan(mask, strength, len(input_ids))
            if not plan:
                return generate(**inputs, **arguments)
            answer: list[Tensor] = []

            def run(**kwargs: Any) -> None:
                answer.append(generate(**kwargs, **arguments))

            with warnings.catch_warnings():
                # The loop below asks for one step more than the model makes; that is how it ends.
                warnings.filterwarnings("ignore", message=".*tracer\\.iter.*")
                with self._nn.trace(fn=run, **inputs) as tracer:
                    for _ in tracer.iter[:]:
                        for envoy, site, edit in plan:
                            if site is Site.HEADS:
                                envoy.input = edit(envoy.input)
                            else:
                                envoy.output = _on_hidden(edit, envoy.output)
            return answer[0]

    def _run(self, inputs: dict[str, Tensor], rows: Tensor | None, mask: Masks, strength: float) -> Tensor:
        with self.lock:
            plan = self._plan(mask, strength, len(inputs["input_ids"]))
            answer: list[Tensor] = []

            def run(**kwargs: Any) -> None:
                answer.append(self.base(**kwargs, use_cache=False).logits)

            if not plan and rows is None:
                run(**inputs)
                return answer[0]
            with self._nn.trace(fn=run, **inputs):
                for envoy, site, edit in plan:
                    if site is Site.HEADS:
                        envoy.input = edit(envoy.input)
                    else:
                        envoy.output = _on_hidden(edit, envoy.output)
                if rows is not None:
                    # A 2-D tensor: on a 3-D one PyTorch would expand the weight of the head.
                    self._head.input = self._head.input[rows]
            return answer[0]

    def _plan(self, mask: Masks, strength: float, batch: int) -> list[tuple[Any, Site, Edit]]:
        """The edits of one pass in the order in which the pass reaches them."""
        if isinstance(mask, Mapping) and (unknown := set(mask) - {e.site for e in self.gated_edits()}):
            sites = " and ".join(e.site for e in self.gated_edits())
            raise ValueError(f"There is a mask for {', '.join(sorted(unknown))}, but this model has edits at {sites}.")
        if not self._edits_on:
            return []
        order = list(Site)
        plan = []
        for intervention in self.interventions:
            assert isinstance(intervention, Intervention)
            own = mask if isinstance(mask, EditMask) or mask is None else mask.get(intervention.site)
            if own is not None and own.offset.dim() == 3 and len(own.offset) not in (1, batch):
                raise ValueError(f"The mask has {len(own.offset)} rows, but the batch has {batch}.")
            for layer, edit in intervention.prepare(own, strength).items():
                plan.append((layer, order.index(intervention.site), intervention.site, edit))
        plan.sort(key=lambda step: step[:2])
        return [(self._site_envoy(site, layer), site, edit) for layer, _, site, edit in plan]

    def _wrap(self) -> None:
        """Give the frozen model to nnsight, as it is now."""
        wrapped = nnsight.TransformersModel(self.base, task="text-generation", tokenizer=self.tokenizer)
        object.__setattr__(self, "_nn", wrapped)
        self._nn: Any
        self._envoys: dict[tuple[Site, int], Any] = {}
        self._head = self._envoy(head_path(self.base))

    def _site_envoy(self, site: Site, layer: int) -> Any:
        if (site, layer) not in self._envoys:
            self._envoys[site, layer] = self._envoy(module_path(self.base, site, layer))
        return self._envoys[site, layer]

    def _envoy(self, path: str) -> Any:
        return self._nn.get(path)

    @torch.no_grad()
    def _check_sites(self) -> None:
        """Run two tokens and compare the shapes at every site with the geometry; refuse what does not fit."""
        geometry, shapes = self.geometry, []
        tokens = torch.zeros(1, 2, dtype=torch.long, device=self.device)

        def run(**kwargs: Any) -> None:
            self.base(**kwargs, use_cache=False)

        try:
            with self.lock:
                with self._nn.trace(fn=run, input_ids=tokens, attention_mask=torch.ones_like(tokens)):
                    for layer in range(geometry.num_layers):
                        shapes.append((Site.HEADS, layer, self._site_envoy(Site.HEADS, layer).input.shape[-1]))
                        shapes.append((Site.MLP, layer, _hidden(self._site_envoy(Site.MLP, layer).output).shape[-1]))
        except (AttributeError, OutOfOrderError) as error:
            raise InputError(
                f"A pass of this {geometry.architecture} model does not go through the attention projection and then "
                f"the MLP of every layer ({str(error).splitlines()[-1]}); jola/sites.py does not describe it rightly."
            ) from error
        for site, layer, found in shapes:
            units, width = geometry.units(site)
            if found != units * width:
                raise InputError(
                    f"Layer {layer} of this {geometry.architecture} model has {found} numbers at site '{site}' where "
                    f"{units} × {width} were expected; jola/sites.py does not describe this model rightly."
                )


def build_edits(config: EditConfig, geometry: Geometry) -> list[GatedEdits]:
    """The gated edits that a configuration asks for on a model of a given geometry."""
    layers = parse_layers(config.layers, geometry.num_layers)
    pairs = parse_heads(config.heads, geometry.num_layers, geometry.num_heads)
    result = []
    for site in sites_of(config):
        units, width = geometry.units(site)
        editable = torch.zeros(geometry.num_layers, units, dtype=torch.bool)
        editable[layers] = True
        if site is Site.HEADS and pairs is not None:
            chosen = torch.zeros_like(editable)
            chosen[tuple(zip(*pairs, strict=True))] = True
            editable &= chosen
        if not bool(editable.any()):
            raise InputError("--layers and --heads together name no head; widen one of them.")
        result.append(
            GatedEdits(
                site,
                geometry.num_layers,
                units,
                width,
                gates=config.gates,
                operation=config.operation,
                editable=editable,
                gate_estimator=config.gate_estimator,
                gate_threshold=config.gate_threshold,
                gate_start=config.gate_start,
            )
        )
    return result


def _hidden(output: Any) -> Tensor:
    """The hidden states in a sub-layer's output, which some architectures give as a tuple."""
    return output[0] if isinstance(output, tuple) else output


def _on_hidden(edit: Edit, output: Any) -> Any:
    """Apply an edit to the hidden states in a sub-layer's output."""
    edited = edit(_hidden(output))
    return (edited, *output[1:]) if isinstance(output, tuple) else edited
