"""Read and evaluate large models that NDIF hosts (https://ndif.us), with the edits of an adapter.

    from jola.insight import next_tokens
    from jola.remote import RemoteModel

    model = RemoteModel.from_adapter("my-run/adapter", model="meta-llama/Llama-3.1-70B")
    next_tokens(model, "The capital of France is")

Prompts and edits are sent to the server; the weights of the model are not downloaded. The edits must be affine maps of
activations, z ↦ scale ⊙ z + offset, like those of JoLA, RED, LoFiT and RePE. Remote training is not supported.

JoLA is not installed on the server, so a request contains only tensors, strings and source code. Functions called
inside a trace are defined inside other functions, because nnsight sends their source.
"""

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nnsight
import torch
from nnsight.intervention.backends.local import LocalSimulationBackend
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from jola.adapters.directory import Adapter, apply_adapter, read_adapter
from jola.data.assets import ASSETS
from jola.data.examples import IGNORED, Encoded, Template, collate, pad_token_of
from jola.edits.sites import Site
from jola.errors import InputError
from jola.export.affine import combined, is_affine
from jola.insight.lens import LogitLens, lens_of
from jola.insight.prompts import Prompt, batch_of, prompt_ids, shared_mask, token_texts
from jola.methods.base import ActivationMethod
from jola.model.architectures import head_path, module_path
from jola.model.edited import SITE_ORDER, EditedModel, Masks
from jola.model.loading import empty_model, load_tokenizer, pick_attention
from jola.model.ndif import REQUEST_SECONDS, NdifBackend, RequestStopped
from jola.model.packing import Packing
from jola.model.placement import FrozenWeights
from jola.model.resting import at_rest
from jola.model.tracing import Plan, Record, TracedModel
from jola.runs.adapter_source import local_adapter
from jola.system.formatting import error_words
from jola.system.hub import hub_or_cache
from jola.system.ndif import require_key
from jola.system.paths import is_there

__all__ = ["RemoteModel", "RemotePasses", "RequestStopped", "refuse_other_edits"]

Step = tuple[str, bool, Tensor, Tensor]
"""Path of a module, whether its input is edited (else its output), scale and offset."""


class RemoteModel(EditedModel):
    """A model hosted by NDIF, with edits that are sent with each request.

    `jola.insight.next_tokens`, `answer_scores` and `jola.evaluation` accept it like a `jola.JoLAModel`; the logit lens
    is `RemoteModel.logit_lens`. Only the shape of the model is compared with that of the adapter, because the weights
    are not on this machine.
    """

    traced: "RemotePasses"

    @classmethod
    def from_adapter(
        cls, adapter: Path | str, *, revision: str | None = None, model: str | None = None, simulate: bool = False
    ) -> "RemoteModel":
        """Create a remote model with the edits of an adapter.

        Args:
            adapter: As for `JoLAModel.from_adapter`.
            revision: Branch, tag or commit of the adapter on the Hub.
            model: The base model on the Hub, if it is not the one saved in the adapter.
            simulate: Send nothing, but serialize each request and run it in this process, like ``remote="local"`` of
                nnsight. The model may then also be a local folder.

        Raises:
            InputError: The API key is missing, the edits cannot be sent, or the model is not on the Hub.
        """
        with local_adapter(adapter, revision) as folder:
            read = read_adapter(folder)
            refuse_other_edits(read)
            name, at = model or read.base_model, None if model else read.revision
            remote = cls.from_pretrained(name, edits=read.edits, revision=at, simulate=simulate)
            apply_adapter(remote, read)
        return remote

    @classmethod
    def from_pretrained(
        cls, model: str, *, edits: Any = None, revision: str | None = None, simulate: bool = False
    ) -> "RemoteModel":
        """Create a remote model with new edits, without its weights; arguments and errors as for `from_adapter`."""
        if not simulate:
            require_key()
            if model == "default" or model in ASSETS or is_there(model):
                raise InputError(
                    f"NDIF does not host {Path(model).name!r}, which is not a model on the Hub; use an adapter of a "
                    "model on the Hub, or give the model with --model owner/name."
                )
        base, _ = empty_model(model, revision=revision)
        tokenizer = load_tokenizer(model, revision)
        passes = RemotePasses(base, tokenizer, model, revision, simulate=simulate)
        return cls(base, tokenizer, edits, name=model, revision=revision, traced=passes)

    def train(self, mode: bool = True) -> "RemoteModel":
        """Set evaluation mode; `InputError` for training mode."""
        if mode:
            raise InputError("A remote model cannot be trained; load the model locally.")
        super().train(False)
        return self

    @contextmanager
    def until(self, stop: threading.Event, seconds: float) -> Iterator[None]:
        """End requests within this block with `RequestStopped` if ``stop`` is set or `InputError` after ``seconds``.

        The server may still compute a request that has been sent. By default, the time limit is one hour.
        """
        passes, before = self.traced, (self.traced.stop, self.traced.seconds)
        passes.stop, passes.seconds = stop, seconds
        try:
            yield
        finally:
            passes.stop, passes.seconds = before

    def frozen_parameters(self) -> FrozenWeights:
        """The names of the weights; their values are only on the server."""
        return _WeightsElsewhere(self.base)

    def plan(
        self,
        mask: Masks,
        strength: float,
        batch: int,
        prompt: Tensor | None = None,
        packing: Packing | None = None,
    ) -> Any:
        """The affine maps of one pass by (layer, site); arguments as for `EditedModel.plan`."""
        maps = combined(self.in_use, self.masks(mask), strength)
        ordered = sorted(maps.items(), key=lambda item: (item[0][1], SITE_ORDER[item[0][0]]))
        return {(layer, site): affine for (site, layer), affine in ordered}

    @torch.no_grad()
    def answer_log_likelihoods(
        self,
        prompts: Sequence[Sequence[int]],
        answers: Sequence[tuple[int, Sequence[int]]],
        *,
        mask: Masks = None,
        strength: float = 1.0,
    ) -> Tensor:
        """As in `EditedModel`; only one number for each token of an answer is downloaded."""
        rows = [Encoded([*prompts[row], *ids], len(prompts[row])) for row, ids in answers]
        batch = collate(rows, pad_token_of(self.tokenizer))
        targets = batch["labels"][:, 1:]
        inputs = self.inputs(batch["input_ids"], batch["attention_mask"])
        each = self.traced.log_probabilities(inputs, self.plan(mask, strength, len(answers)), targets)
        return torch.zeros(len(answers)).index_add(0, (targets != IGNORED).nonzero()[:, 0], each)

    def logit_lens(
        self,
        prompt: Prompt,
        count: int = 5,
        *,
        last: int | None = 8,
        mask: Masks = None,
        strength: float = 1.0,
        template: Template | None = None,
    ) -> LogitLens:
        """Like `jola.insight.logit_lens`, in one request; only the most likely tokens are downloaded."""
        ids = prompt_ids(self, prompt, template)
        kept = len(ids) if last is None else max(1, min(last, len(ids)))
        with at_rest(self):
            plan = self.plan(shared_mask(self, mask), strength, 1)
            indices, values, kl = self.traced.lens(self.inputs(batch_of(ids)), plan, kept, count)
        base, edited = (lens_of(self.tokenizer, *side) for side in zip(indices, values.exp(), strict=True))
        layers, positions = range(self.geometry.num_layers + 1), range(len(ids) - kept, len(ids))
        tokens = tuple(token_texts(self.tokenizer, ids)[-kept:])
        return LogitLens(tuple(layers), tuple(positions), tokens, base, edited, kl.double().numpy())


class RemotePasses(TracedModel):
    """Passes of a model on a server, with affine edits.

    Args:
        base: The model on the meta device, from which shapes and module paths are read.
        tokenizer: Its tokenizer.
        name, revision: Name and revision of the model on the server.
        simulate: As for `RemoteModel.from_adapter`.
    """

    def __init__(
        self,
        base: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        revision: str | None = None,
        *,
        simulate: bool = False,
    ) -> None:
        where = {} if revision is None else {"revision": revision}
        # Sent with each request, because the server would otherwise use the implementation of the previous request.
        attention = pick_attention("auto", base.config, torch.device("cuda"))
        try:
            with hub_or_cache(name):
                self._nn: Any = nnsight.TransformersModel(
                    name, task="text-generation", tokenizer=tokenizer, attn_implementation=attention, **where
                )
        except Exception as error:  # any error of the client of the Hub and of transformers
            raise _not_found(name, error) from error
        self._name, self._simulate, self._head_path = name, simulate, head_path(base)
        self.stop: threading.Event | None = None
        self.seconds = REQUEST_SECONDS
        super().__init__(base, tokenizer)

    @property
    def device(self) -> torch.device:
        """Device of the inputs and the results."""
        return torch.device("cpu")

    def wrap(self) -> None:
        """Do nothing, because modules are not replaced remotely."""

    def _check_sites(self) -> None:
        """Do nothing, because the check would need a remote pass."""

    def packing(self, inputs: dict[str, Tensor], rows: Tensor, edited_alike: Tensor | None = None) -> None:
        """None, because batches are not packed."""

    def run(self, inputs: dict[str, Tensor], plan: Plan, rows: Tensor | None = None, **_: Any) -> Tensor:
        """As in `TracedModel`; arguments that affect only local memory and speed are ignored."""
        model, head, layers, edit = self._nn, self._head_path, self._layers, _editor(self._steps_by_layer(plan))
        with self.lock:
            with model.trace(**inputs, use_cache=False, backend=self._backend()):
                for layer in layers:
                    edit(model, layer)
                if rows is not None:
                    hidden = model.get(head).input
                    model.get(head).input = hidden[rows.to(hidden.device)]
                logits = model.output.logits.detach().cpu().save()
        return logits

    def log_probabilities(self, inputs: dict[str, Tensor], plan: Plan, targets: Tensor) -> Tensor:
        """ln p of given tokens, float32 in row-major order.

        Args:
            inputs, plan: As for `run`.
            targets: (batch, tokens − 1): the token after each position, or −100 to skip the position.
        """
        model, head, layers, edit = self._nn, self._head_path, self._layers, _editor(self._steps_by_layer(plan))
        rows, tokens = torch.nn.functional.pad(targets != IGNORED, (0, 1)), targets[targets != IGNORED][:, None]
        with self.lock:
            with model.trace(**inputs, use_cache=False, backend=self._backend()):
                for layer in layers:
                    edit(model, layer)
                hidden = model.get(head).input
                model.get(head).input = hidden[rows.to(hidden.device)]
                scores = model.output.logits.detach().float().log_softmax(-1)
                found = scores.gather(-1, tokens.to(scores.device))[:, 0].cpu().save()
        return found

    def generate(
        self,
        inputs: dict[str, Tensor],
        plan: Plan,
        arguments: Mapping[str, Any],
        *,
        later: Plan | None = None,
        uniform: bool = False,
    ) -> Any:
        """As in `TracedModel`, without stopping criteria; a streamer gets the whole answer at once."""
        # Both are local code, which the server cannot call.
        streamer = arguments.get("streamer")
        arguments = {key: value for key, value in arguments.items() if key not in ("streamer", "stopping_criteria")}
        model, layers, edit = self._nn, self._layers, _editor(self._steps_by_layer(plan))
        edited = bool(plan)  # a loop without an edit would not end
        with self.lock, warnings.catch_warnings():
            # The loop below ends by requesting one step more than the model runs, of which nnsight warns.
            warnings.filterwarnings("ignore", message=".*tracer\\.iter.*")
            with model.generate(**arguments, backend=self._backend()) as tracer:
                with tracer.invoke(inputs):
                    if edited:
                        for _ in tracer.iter[:]:
                            for layer in layers:
                                edit(model, layer)
                with tracer.invoke():
                    tokens = tracer.result.cpu().save()
        if streamer is not None:
            before = inputs["input_ids"].shape[1]
            streamer.put(tokens[:, :before])
            streamer.put(tokens[0, before:])
            streamer.end()
        return tokens

    def lens(self, inputs: dict[str, Tensor], plan: Plan, kept: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Apply the final norm and the head to the residual stream before, between and after the layers.

        Args:
            inputs: Inputs of one prompt.
            plan: As for `run`.
            kept: Number of positions, from the end.
            count: Number of most likely tokens.

        Returns:
            Token ids and ln p of the most likely tokens without and with the edits, (2, layers + 1, kept, count), and
            KL(edited ‖ base) in nats, (layers + 1, kept).
        """
        model, blocks = self._nn, [module_path(self.base, Site.BLOCK, layer) for layer in self._layers]
        count = min(max(count, 0), self.base.config.get_text_config().vocab_size)
        read_base, read_edited = (_reader(blocks, steps, kept) for steps in ({}, self._steps_by_layer(plan)))
        # The last pass skips the layers and applies norm and head to all streams as rows of one batch. Do not add
        # comments or line breaks inside the session: nnsight would not find its traces on the shifted lines.
        with self.lock:
            with model.session(backend=self._backend()):
                with model.trace(**inputs, use_cache=False):
                    base = read_base(model)
                with model.trace(**inputs, use_cache=False):
                    edited = read_edited(model)
                with model.trace(input_ids=inputs["input_ids"][:, -kept:], use_cache=False):
                    for block in blocks:
                        model.get(block).skip(torch.cat([base, edited]))
                    scores = model.output.logits.detach().float().log_softmax(-1).unflatten(0, (2, -1))
                    top = scores.topk(count)
                    indices, values = top.indices.cpu().save(), top.values.cpu().save()
                    kl = (scores[1].exp() * (scores[1] - scores[0])).sum(-1).clamp(min=0).cpu().save()
        return indices, values, kl

    def record(self, *_: Any, **__: Any) -> Record:
        """Not supported.

        Raises:
            InputError: Always.
        """
        raise InputError(
            "This needs the activations of every layer, which are not available from a remote model; next tokens, "
            "answers and the logit lens are."
        )

    @property
    def _layers(self) -> range:
        return range(self.geometry.num_layers)

    def _steps_by_layer(self, plan: Mapping[tuple[int, Site], Any]) -> dict[int, list[Step]]:
        steps: dict[int, list[Step]] = {}
        for (layer, site), affine in plan.items():
            path = module_path(self.base, site, layer)
            steps.setdefault(layer, []).append((path, site is Site.HEADS, affine.scale.float(), affine.offset.float()))
        return steps

    def _backend(self) -> Any:
        if self._simulate:
            return LocalSimulationBackend(self._nn)
        try:
            key = self._nn.to_model_key()
        except Exception as error:  # any error of the client of the Hub, which resolves the name for the server
            raise _not_found(self._name, error) from error
        return NdifBackend(key, self._nn._remoteable_get_env(), stop=self.stop, seconds=self.seconds)


def refuse_other_edits(adapter: Adapter) -> None:
    """Check that the edits of an adapter are affine maps of activations.

    Raises:
        InputError: The edits cannot be sent.
    """
    if not isinstance(adapter.method, ActivationMethod) or not all(map(is_affine, adapter.rebuild())):
        raise InputError(
            f"{adapter.method.title} cannot be used remotely, because its edits are not scales and offsets of "
            "activations; load the model locally, or use an adapter of JoLA, RED, LoFiT or RePE."
        )


class _WeightsElsewhere(FrozenWeights):
    def is_exact(self, name: str) -> bool:
        return False


def _not_found(name: str, error: Exception) -> InputError:
    return InputError(
        f"The model {name} cannot be found on the Hub ({error_words(error)}); check the name and the network."
    )


# The functions that these return run on the server.


def _editor(steps: Mapping[int, Sequence[Step]]) -> Callable[[Any, int], None]:
    """Return a function that applies the edits of a layer within a trace."""

    def edit(model, layer):
        for path, entering, scale, offset in steps.get(layer, ()):
            module = model.get(path)
            before = module.input if entering else module.output
            z = before[0] if isinstance(before, tuple) else before
            # In float32, because bfloat16 cannot represent scales within 0.4 % of 1.
            z = torch.addcmul(offset.to(z.device), z, scale.to(z.device)).to(z.dtype)
            if entering:
                module.input = z
            else:
                module.output = (z, *before[1:]) if isinstance(before, tuple) else z

    return edit


def _reader(blocks: Sequence[str], steps: Mapping[int, Sequence[Step]], kept: int) -> Callable[[Any], Tensor]:
    """Return a function that gives the residual stream of an edited pass, (layers + 1, kept, hidden), in a trace."""
    edit = _editor(steps)

    def read(model):
        streams = []
        for layer, block in enumerate(blocks):
            streams.append(model.get(block).input[:, -kept:])
            edit(model, layer)
        output = model.get(blocks[-1]).output
        last = (output[0] if isinstance(output, tuple) else output)[:, -kept:]
        return torch.cat([*(stream.to(last.device) for stream in streams), last])

    return read
