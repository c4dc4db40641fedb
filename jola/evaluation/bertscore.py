"""BERTScore (Zhang et al., 2020): how well the tokens of answer and reference match in the space of an encoder.

Every token of one text is matched with the most similar token of the other, by the cosine of their vectors after one
layer of the encoder. Precision is the mean over the tokens of the answer, recall over those of the reference, and the
value is their harmonic mean, for the reference for which it is largest. Values of different encoders or layers are not
comparable, so both are part of the metric's name. As in GEM, there are no idf weights and no rescaling.

The package ``bert-score`` computes it. Two cases in which it fails are handled here: an empty answer scores 0, and a
tokenizer without a length limit gets the encoder's.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from jola.data.assets import ASSETS, ensure
from jola.data.catalogue import MINILM
from jola.data.records import Example
from jola.errors import InputError
from jola.evaluation.metrics import Metric, required_package, right_answers
from jola.model.loading import pick_device
from jola.system.formatting import error_words

DEFAULT_ENCODER = "distilbert-base-uncased"
LAYERS = {DEFAULT_ENCODER: 5, "roberta-large": 17, MINILM: 6}
"""Layer of each encoder, counted from 1, whose vectors are compared by default."""
_NAME = re.compile(r"(?P<encoder>.*?)(?:@(?P<layer>\d{1,3}))?")


def bertscore(encoder: str = "") -> Metric:
    """Return the metric BERTScore with an encoder.

    Args:
        encoder: ``ENCODER`` or ``ENCODER@LAYER``: a name on the Hub, a folder, or the asset ``all-minilm-l6-v2``; empty
            for `DEFAULT_ENCODER`.

    Raises:
        InputError: No layer is given, and the encoder has no default layer.
    """
    found = _NAME.fullmatch(encoder)
    name = (found["encoder"] if found else "") or DEFAULT_ENCODER
    layer = int(found["layer"]) if found and found["layer"] else LAYERS.get(name)
    if layer is None:
        raise InputError(f"BERTScore needs the layer of the encoder {name}; write bertscore:{name}@LAYER.")
    label = f"{Path(name).name if Path(name).is_dir() else name}@{layer}"

    def values(answers: Sequence[str], examples: Sequence[Example], labels: Sequence[str] | None) -> list[float]:
        return _values(answers, examples, name, layer)

    return Metric(
        f"bertscore:{label}",
        f"BERTScore ({label})",
        values,
        signature=lambda examples: _signature(label),
        package="bert_score.utils",
    )


def _values(answers: Sequence[str], examples: Sequence[Example], encoder: str, layer: int) -> list[float]:
    pairs = [
        (index, answer, right)
        for index, (answer, example) in enumerate(zip(answers, examples, strict=True))
        for right in right_answers(example)
        if answer.strip() and right
    ]
    best = [0.0] * len(answers)
    if not pairs:
        return best
    score = required_package("bert_score.utils").bert_cos_score_idf
    model, tokenizer = _load(encoder, layer)
    weights: dict[int, float] = defaultdict(lambda: 1.0)
    weights[tokenizer.sep_token_id] = weights[tokenizer.cls_token_id] = 0.0
    places, candidates, references = (list(column) for column in zip(*pairs, strict=True))
    found = score(model, references, candidates, tokenizer, weights, device=str(model.device))
    for index, value in zip(places, found[:, 2].tolist(), strict=True):
        best[index] = max(best[index], value)
    return best


@lru_cache(maxsize=1)
def _load(encoder: str, layer: int) -> tuple[Any, Any]:
    """Load the encoder up to a layer, and its tokenizer."""
    from transformers import AutoConfig, AutoModel, AutoTokenizer, PretrainedConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    place = str(ensure(encoder)) if encoder in ASSETS else encoder
    try:
        # Read as plain data first, because the type chooses the code that interprets the configuration.
        kind = PretrainedConfig.get_config_dict(place)[0].get("model_type")
        if kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
            raise InputError(
                f"{encoder} is a model of type {str(kind)[:80]!r}, but BERTScore needs an encoder with bidirectional "
                "attention; choose one, such as roberta-large."
            )
        config = AutoConfig.from_pretrained(place, trust_remote_code=False)
        if not 1 <= layer <= config.num_hidden_layers:
            raise InputError(f"{encoder} has no layer {layer}; choose one from 1 to {config.num_hidden_layers}.")
        config.num_hidden_layers = layer
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        model = AutoModel.from_pretrained(place, config=config, use_safetensors=True, trust_remote_code=False)
    except InputError:
        raise
    except Exception as error:  # of network, files and three libraries; no list of types would be complete
        reason = error_words(error)
        raise InputError(
            f"The encoder {encoder} of BERTScore cannot be loaded ({reason}); fetch it with `hf download {encoder}`, "
            f"or use bertscore:{MINILM}, whose encoder is in the package index."
        ) from error
    tokenizer.model_max_length = min(tokenizer.model_max_length, config.max_position_embeddings)
    return model.to(pick_device("auto")).eval(), tokenizer


def _signature(label: str) -> str:
    from importlib.metadata import version

    encoder, _, layer = label.rpartition("@")
    versions = f"version={version('bert-score')}(hug_trans={version('transformers')})"
    return f"{encoder}_L{layer}_no-idf_{versions}"
