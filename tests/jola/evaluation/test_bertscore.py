"""BERTScore with a small real encoder, compared with a separate implementation of twenty lines."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, GPT2Config, GPT2LMHeadModel

from jola.data import assets
from jola.data.catalogue import MINILM
from jola.data.records import Example, Message
from jola.errors import InputError
from jola.evaluation import bertscore as module
from jola.evaluation.answers import metric_named

ANSWERS = ["There is a cat on the mat.", "Berlin is the capital of France.", "", "Yes"]
RIGHT = [
    ("A cat sits on a mat.", "On the mat is a cat."),
    ("Paris is the capital of France.",),
    ("Rain.",),
    ("No", "yes"),
]


def examples() -> list[Example]:
    return [Example((Message("user", "?"),), first, tuple(others)) for first, *others in RIGHT]


@pytest.fixture
def encoder(home: Path) -> Path:
    """The folder of the asset, fetched once for all tests."""
    from tests.conftest import SHARED_CACHE

    home.mkdir(parents=True, exist_ok=True)
    SHARED_CACHE.mkdir(parents=True, exist_ok=True)
    (home / "cache").symlink_to(SHARED_CACHE, target_is_directory=True)
    module._load.cache_clear()
    return assets.ensure(MINILM, progress=False)


def own_f1(folder: Path, layer: int, answer: str, reference: str) -> float:
    """Return the F1 of greedy matching between tokens of two texts; special tokens are matched, but not as queries."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)

    def vectors(text: str) -> tuple[torch.Tensor, torch.Tensor]:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        hidden = model(ids, output_hidden_states=True).hidden_states[layer][0]
        marks = torch.isin(ids[0], torch.tensor([tokenizer.cls_token_id, tokenizer.sep_token_id]))
        return torch.nn.functional.normalize(hidden, dim=-1), ~marks

    with torch.no_grad():
        (ours, is_ours), (theirs, is_theirs) = vectors(answer), vectors(reference)
        cosines = ours @ theirs.T
    precision = cosines.max(1).values[is_ours].mean()
    recall = cosines.max(0).values[is_theirs].mean()
    return float(2 * precision * recall / (precision + recall))


@pytest.mark.default_model
@pytest.mark.parametrize("layer", [6, 3])
def test_it_is_the_best_greedy_match_over_the_references(encoder: Path, layer: int) -> None:
    metric = metric_named(f"bertscore:{MINILM}@{layer}")
    values = metric.values(ANSWERS, examples(), None)
    expected = [
        max(own_f1(encoder, layer, answer, right) for right in rights) if answer else 0.0
        for answer, rights in zip(ANSWERS, RIGHT, strict=True)
    ]
    assert values == pytest.approx(expected, abs=2e-6)
    assert values[3] == pytest.approx(1, abs=1e-6) and values[2] == 0
    score = metric.score(ANSWERS, examples())
    assert score.metric == f"bertscore:{MINILM}@{layer}" and score.title == f"BERTScore ({MINILM}@{layer})"
    assert score.signature.startswith(f"{MINILM}_L{layer}_no-idf_version=") and score.low < score.value < score.high


@pytest.mark.default_model
def test_the_layer_of_the_small_encoder_is_known_and_long_answers_are_cut(encoder: Path) -> None:
    metric = metric_named(f"bertscore:{MINILM}")
    assert metric.name == f"bertscore:{MINILM}@6"
    values = metric.values(
        ["rain " * 2000, "rain " * 2000], [Example((Message("user", "?"),), "rain " * 3000)] * 2, None
    )
    assert values == pytest.approx([1, 1], abs=1e-5)


@pytest.mark.default_model
def test_all_answers_empty_needs_no_encoder(home: Path) -> None:
    assert metric_named(f"bertscore:{MINILM}").values(["", " "], examples()[:2], None) == [0, 0]
    assert not (home / "cache").exists()


def test_what_is_no_encoder_or_has_no_such_layer(tmp_path: Path, tokenizer: object) -> None:
    small = {
        "vocab_size": 300,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    BertModel(BertConfig(**small)).save_pretrained(tmp_path / "bert")
    GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=300)).save_pretrained(tmp_path / "decoder")
    with pytest.raises(InputError, match="has no layer 7; choose one from 1 to 2"):
        metric_named(f"bertscore:{tmp_path / 'bert'}@7").score(ANSWERS, examples())
    with pytest.raises(InputError, match="type 'gpt2', but BERTScore needs an encoder"):
        metric_named(f"bertscore:{tmp_path / 'decoder'}@1").score(ANSWERS, examples())


def test_the_layer_must_be_known() -> None:
    with pytest.raises(InputError, match="layer of the encoder somebody/bert; write bertscore:somebody/bert@LAYER"):
        metric_named("bertscore:somebody/bert")


def test_an_encoder_that_cannot_be_had_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import PretrainedConfig

    def refuse(*arguments: object, **named: object) -> None:
        raise OSError("no route to the host")

    monkeypatch.setattr(PretrainedConfig, "get_config_dict", refuse)
    module._load.cache_clear()
    with pytest.raises(
        InputError, match=r"distilbert-base-uncased .* \(no route to the host\); fetch .*all-minilm-l6-v2"
    ):
        metric_named("bertscore").score(ANSWERS, examples())
