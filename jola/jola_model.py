"""`JoLAModel`: an edited model that is loaded, saved, pushed and merged."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from jola.adapters.directory import apply_adapter, read_adapter, save_adapter
from jola.config import EditConfig
from jola.errors import InputError
from jola.model.edited import EditedModel
from jola.model.loading import load_base, pick_device, pick_dtype
from jola.model.placement import DeviceMap, read_device_map
from jola.model.quantization import quantization_config
from jola.model.sharding import check_sharding
from jola.runs.adapter_source import local_adapter


class JoLAModel(EditedModel):
    """A frozen causal language model with trainable edits (paper, section 3).

    `EditedModel` implements the computation. This class loads base models and adapters from folders and the Hub, saves
    adapters and merged models, and provides the method names of the reference package.
    """

    @classmethod
    def from_pretrained(
        cls,
        model: str = "default",
        *,
        edits: EditConfig | None = None,
        revision: str | None = None,
        dtype: str | torch.dtype = "auto",
        device: str = "auto",
        attn_implementation: str = "auto",
        device_map: DeviceMap = None,
        quantize: str = "none",
        shard_base: bool = False,
        seed: int = 0,
    ) -> "JoLAModel":
        """Load a model with new edits.

        Args:
            model: 'default', a Hub id, a local folder or a GGUF file.
            dtype: 'float32', 'bfloat16', 'float16', a dtype of PyTorch such as ``torch.float32``, or 'auto', which is
                bfloat16 if the hardware supports it, else float32.
            device: 'auto', 'cpu', 'cuda', …
            device_map: Devices of the layers, instead of `device`: 'auto', 'balanced', 'balanced_low_0', 'sequential',
                a JSON file, or a device, 'cpu' or 'disk' for each module.
            quantize: Storage of the frozen weights: 'none', '4bit' or '8bit' with bitsandbytes, or 'int8' with torchao.
                Edits stay in float32.
            shard_base: Divide the frozen weights among the processes started by torchrun. All processes must load the
                model and run their passes at the same time; the tokens may differ.

        Raises:
            InputError: The model cannot be found or loaded, or its architecture is unknown.
        """
        base, tokenizer, name = load_base(
            model,
            revision=revision,
            dtype=dtype,
            device=device,
            attn_implementation=attn_implementation,
            device_map=device_map,
            quantize=quantize,
            shard_base=shard_base,
        )
        return cls(base, tokenizer, edits, name=name, revision=revision, quantize=quantize, seed=seed)

    @classmethod
    def from_adapter(
        cls,
        adapter: Path | str,
        *,
        revision: str | None = None,
        model: str | None = None,
        dtype: str | torch.dtype = "auto",
        device: str = "auto",
        device_map: DeviceMap = None,
        quantize: str | None = None,
        shard_base: bool = False,
    ) -> "JoLAModel":
        """Load the edits of an adapter together with the model they were trained on.

        Args:
            adapter: A directory written by `save_pretrained` or one of a run, a zip file of either, or "owner/name" on
                the Hub.
            revision: Branch, tag or commit of the adapter on the Hub.
            model: The base model, if it is not in the location saved in the adapter.
            dtype, device, device_map, shard_base: As for `from_pretrained`.
            quantize: As for `from_pretrained`; None uses the quantization of the training.
        """
        with local_adapter(adapter, revision) as folder:
            found = read_adapter(folder)
        # These arguments are checked here, so that their errors are not attributed to the base model below.
        chosen = pick_dtype(dtype, pick_device(device))
        device_map = None if device_map is None else read_device_map(device_map)
        quantize = found.base_quantization if quantize is None else quantize
        if quantize not in (None, "none"):
            quantization_config(quantize, chosen)
        if shard_base:
            check_sharding(quantize=quantize or "none", device_map=device_map)
        try:
            loaded = cls.from_pretrained(
                model or found.base_model,
                revision=None if model else found.revision,
                edits=found.edits,
                dtype=dtype,
                device=device,
                device_map=device_map,
                quantize=quantize,
                shard_base=shard_base,
            )
        except InputError as error:
            if model:
                raise
            raise InputError(
                f"The adapter in {adapter} needs the model it was trained on, {found.base_model}; if it has moved, "
                f"give its new location with --model. ({error})"
            ) from error
        apply_adapter(loaded, found)
        return loaded.eval()

    def save_pretrained(
        self, folder: Path | str, facts: Mapping[str, Any] | None = None, *, compact: bool = False
    ) -> Path:
        """Save the edits as an adapter directory.

        Args:
            folder: The adapter directory.
            facts: More lines for its README, name → text.
            compact: Leave out the vectors of closed gates, which are unused.
        """
        return save_adapter(self, folder, facts, compact=compact)

    def push_to_hub(self, repo: str, **arguments: Any) -> str:
        """Upload the edits as an adapter to the Hub; see `jola.export.push_adapter`."""
        from jola.export import push_adapter

        return push_adapter(self, repo, **arguments)

    def merge_and_unload(self, safe: bool = True, **arguments: Any) -> PreTrainedModel:
        """Fold the edits into a new plain model of transformers; see `jola.export.merge_and_unload`."""
        from jola.export import merge_and_unload

        return merge_and_unload(self, safe, **arguments)

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
        """`from_pretrained` with the name and the arguments of the reference package.

        `cache_dir` and `base_model_name` have no effect, as in the reference package; `applied_module` is 'attention',
        'mlp' or 'both'.
        """
        sites: dict[str, Literal["heads", "mlp", "both"]] = {"attention": "heads", "mlp": "mlp", "both": "both"}
        if applied_module not in sites:
            raise InputError(f"applied_module is {applied_module!r}; choose one of {', '.join(sites)}.")
        edits = EditConfig(sites=sites[applied_module], gate_start=0.0)
        return cls.from_pretrained(pretrained_model_name_or_path, edits=edits, device=device or "auto", **others)

    def unfreeze_jola_params(self) -> "JoLAModel":
        """Make only the edits and gates trainable, which is also the initial state."""
        self.base.requires_grad_(False)
        return self.requires_grad_(True)

    @property
    def model(self) -> "JoLAModel":
        """The model itself, because scripts of the reference package call ``jola_model.model.train()``."""
        return self
