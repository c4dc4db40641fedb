"""Export of a folded model as a GGUF file, for llama.cpp and programs based on it.

The architecture ``llama`` of GGUF has optional biases for attention outputs and MLPs (``blk.N.attn_output.bias``,
``blk.N.ffn_down.bias``), which llama.cpp adds if they are present. transformers ignores them by default, because the
configuration that it derives from the file has no biases. `export_gguf` reads the file back with and without a suitable
configuration and reports both results.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from jola.adapters.card import portable_name
from jola.data.catalogue import gguf_options
from jola.errors import InputError
from jola.export import exactness
from jola.export.exactness import Deviation, percent
from jola.export.fold import LOST_LIMIT, references
from jola.export.foldable import foldable_edits
from jola.export.folders import new_file, quiet_transformers
from jola.export.rebuild import rebuild
from jola.export.source import refuse_export
from jola.model.packing import attention_in_float32
from jola.system.files import disk_errors
from jola.system.progress import Progress, Quiet

if TYPE_CHECKING:
    from jola.model.edited import EditedModel, Masks

FORMATS = {
    "float32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "float16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bfloat16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
}
"""Number formats of the matrices; vectors, including biases, are always float32."""

_ALTERNATIVE = "export the merged checkpoint instead and convert it with llama.cpp's own script"


@dataclass(frozen=True)
class GGUFReport:
    """The exported file and its exactness; |Δlogit| as in `FoldReport`."""

    path: str
    dtype: str
    bytes: int
    biases: int
    """Number of bias tensors in the file."""
    prompts: int
    tokens: int
    effect: float
    """Largest |Δlogit| between the edited and the frozen model."""
    exact: Deviation
    """The file, read by transformers with a configuration that includes its biases, against the edited model."""
    without_biases: Deviation
    """The file, read by transformers with the default configuration, against the edited model."""
    switches: tuple[str, ...]
    """Fields of the configuration that must be true for transformers to read the biases."""
    seconds: float

    def describe(self) -> str:
        """A summary of a few lines."""
        n = f"n = {self.prompts} prompts, {self.tokens} tokens"
        lines = [
            f"GGUF file        {self.path}, {self.dtype}, {self.bytes / 1e6:.1f} MB, {self.biases} bias tensors",
            f"edits change     logits by up to {self.effect:.3g} ({n})",
            f"with its biases  max |Δlogit| {self.exact.largest:.2g}, {percent(self.exact.lost)} of the edits' effect "
            f"lost; same most likely token at {self.exact.same_top} of {self.tokens} positions",
        ]
        if self.biases:
            lines.append(
                f"note             by default transformers ignores the biases of GGUF files and loses "
                f"{percent(self.without_biases.lost)} of the effect; pass a config with "
                + " and ".join(f"{name}=True" for name in self.switches)
            )
        return "\n".join(lines)


def export_gguf(
    model: "EditedModel",
    file: Path | str,
    dtype: str = "float16",
    prompts: Sequence[str] | None = None,
    *,
    mask: "Masks" = None,
    strength: float = 1.0,
    progress: Progress | None = None,
) -> GGUFReport:
    """Write the folded model as a GGUF file of architecture ``llama``, read it back and measure its exactness.

    Args:
        file: A new file whose name ends in ``.gguf``.
        dtype: Data type of the matrices: "float32", "float16" or "bfloat16".
        prompts: Prompts for the measurement; None uses `jola.export.exactness.PROMPTS`.
        mask, strength: As for `jola.export.merge`.

    Raises:
        InputError: The folded model is not a Llama, its position encoding or tokenizer is not supported, the format
            loses the edits, or the file already exists or cannot be written.
    """
    refuse_export(model, "gguf")
    began, progress, file = time.monotonic(), progress or Quiet(), Path(file)
    if file.suffix != ".gguf":
        raise InputError(f"{file.name} does not end in .gguf; choose a name that does.")
    if dtype not in FORMATS:
        raise InputError(f"dtype is {dtype!r}; choose one of {', '.join(FORMATS)}.")
    rows = exactness.encode_prompts(model, prompts)
    with quiet_transformers(), new_file(file) as draft:
        progress.phase("Writing the GGUF file")
        merged = rebuild(model.base, foldable_edits(model, mask, strength), torch.float32)
        biases = _write(merged, model.tokenizer, draft, dtype, portable_name(model.name))
        progress.phase("Measuring", 4 * len(rows))
        steps = exactness.Steps(progress)
        edited, base = references(model, rows, mask, strength, steps)
        switches = {name: getattr(merged.config, name) for name in ("attention_bias", "mlp_bias")}
        del merged
        exact, plain = (
            exactness.deviation(edited, base, steps.through(exactness.plain_logits(read), rows))
            for read in (_read(draft, model, switches), _read(draft, model, {}))
        )
        if not exact.lost <= LOST_LIMIT:
            raise InputError(
                f"Nothing was written: in {dtype} the file loses {percent(exact.lost)} of the edits' effect on logits "
                f"(n = {len(rows)} prompts); choose float16 or float32."
            )
        size = draft.stat().st_size
    return GGUFReport(
        path=str(file),
        dtype=dtype,
        bytes=size,
        biases=biases,
        prompts=len(rows),
        tokens=sum(ids.shape[1] for ids in rows),
        effect=exactness.largest_difference(edited, base),
        exact=exact,
        without_biases=plain,
        switches=tuple(name for name, on in switches.items() if on),
        seconds=time.monotonic() - began,
    )


def _write(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, file: Path, dtype: str, name: str) -> int:
    """Write a model in float32 and its tokenizer; returns the number of biases."""
    config: Any = model.config
    rope = config.rope_parameters if isinstance(model, LlamaForCausalLM) else None
    if rope is None:
        raise InputError(
            f"A folded {config.model_type} model does not have GGUF's architecture llama, the only one with known "
            f"support for the biases in llama.cpp; {_ALTERNATIVE}."
        )
    if rope.get("rope_type") != "default":
        raise InputError(
            f"The scaled position encoding of this model is not supported ({rope.get('rope_type')}); {_ALTERNATIVE}."
        )
    kind, file_type = FORMATS[dtype]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name(name)
    writer.add_file_type(file_type)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, tokenizer, config.vocab_size)
    biases = 0
    for tensor_name, tensor in _tensors(model):
        values = np.ascontiguousarray(tensor.numpy())
        biases += tensor_name.endswith(".bias")
        if tensor.dim() > 1:
            values = gguf.quantize(values, kind)
        writer.add_tensor(tensor_name, values, raw_dtype=kind if tensor.dim() > 1 else None)
    with disk_errors(file):
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return biases


def _tensors(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """The weights by their names in GGUF files, on the CPU."""
    config: Any = model.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        stem, _, suffix = name.rpartition(".")
        tensor = tensor.detach().float().cpu()
        for projection, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if stem.endswith(projection):
                # Rotary pairs are adjacent in GGUF files, and half a head apart in transformers.
                tensor = tensor.view(heads, 2, -1, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)
        found = names.get_name(stem)
        if found is None:
            raise InputError(f"GGUF's architecture llama has no name for {name}; {_ALTERNATIVE}.")
        yield f"{found}.{suffix}", tensor


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerBase, size: int) -> None:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    described = json.loads(backend.to_str()) if backend is not None else {}
    pre = _splitting(described)
    vocabulary = {token: number for token, number in tokenizer.get_vocab().items() if number < size}
    tokens = [f"[PAD{number}]" for number in range(size)]
    kinds = [gguf.TokenType.UNUSED] * size
    added = {entry["id"]: entry for entry in described["added_tokens"]}
    for token, number in vocabulary.items():
        tokens[number] = token
        special = added.get(number, {}).get("special")
        kinds[number] = (
            gguf.TokenType.NORMAL
            if number not in added
            else (gguf.TokenType.CONTROL if special else gguf.TokenType.USER_DEFINED)
        )
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in described["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    for number, add in (
        (tokenizer.bos_token_id, writer.add_bos_token_id),
        (tokenizer.eos_token_id, writer.add_eos_token_id),
        (tokenizer.pad_token_id, writer.add_pad_token_id),
        (tokenizer.unk_token_id, writer.add_unk_token_id),
    ):
        if isinstance(number, int):
            add(number)
    first = tokenizer("a")["input_ids"][:1]
    writer.add_add_bos_token(tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id])
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _splitting(described: dict[str, Any]) -> str:
    """Name of the pre-tokenizer in llama.cpp."""
    model, splitter = described.get("model", {}), described.get("pre_tokenizer") or {}
    parts = splitter.get("pretokenizers", [splitter])
    kinds = [part.get("type") for part in parts]
    plain_bytes = bool(kinds) and kinds[-1] == "ByteLevel" and parts[-1].get("use_regex", True)
    if model.get("type") == "BPE" and plain_bytes and not described.get("normalizer"):
        if len(parts) == 1 and not parts[0].get("add_prefix_space"):
            return "gpt-2"
        if kinds == ["Digits", "ByteLevel"] and parts[0].get("individual_digits"):
            return "smollm"
    raise InputError(f"The pre-tokenizer of this model is not supported; {_ALTERNATIVE}.")


def _read(file: Path, model: "EditedModel", switches: dict[str, bool]) -> PreTrainedModel:
    """Load the file with transformers, in float32, with biases according to the switches."""
    where = {"gguf_file": file.name}
    config = AutoConfig.from_pretrained(file.parent, **where)
    for name, value in switches.items():
        setattr(config, name, value)
    read: Any = AutoModelForCausalLM.from_pretrained(
        file.parent,
        config=config,
        dtype=torch.float32,
        attn_implementation=attention_in_float32(model.base),
        **where,
        **gguf_options(),
    )
    return read.to(model.device).eval()
