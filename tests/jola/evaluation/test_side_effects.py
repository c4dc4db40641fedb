"""Side effects on plain text, compared with values computed by hand from single passages."""

from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from jola.config import EditConfig
from jola.errors import InputError
from jola.evaluation import side_effects as module
from jola.evaluation.side_effects import OWN_TEXT, plain_text, read_passages, side_effects
from jola.jola_model import JoLAModel
from jola.methods.lora import LoRAConfig
from jola.methods.loreft import LoReFTConfig
from tests.jola.insight.by_hand import parts_of
from tests.jola.model.plain_hooks import hooked
from tests.tiny import make_model, make_tokenizer

Make = Callable[..., JoLAModel]
PASSAGES = ["The film was warm and funny.", "A word describes a task, and a number.", "Write it.", "Positive"]


@torch.no_grad()
def by_hand(model: JoLAModel, architecture: str, passages: list[str]) -> list[tuple[float, float, float]]:
    """Return (base cross-entropy, edited cross-entropy, KL divergence) of each scored token."""
    plain, found = make_model(architecture), []
    for passage in passages:
        ids = model.tokenizer(passage)["input_ids"]
        base = plain(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        with hooked(plain, parts_of(model)):
            edited = plain(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        for at in range(1, len(ids)):
            p, q = base[at - 1], edited[at - 1]
            found.append((-float(p[ids[at]]), -float(q[ids[at]]), float((p.exp() * (p - q)).sum())))
    return found


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt"])
def test_figures_are_means_over_tokens(tiny: Make, architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(architecture, EditConfig(sites="both"))
    monkeypatch.setattr(module, "_LOGITS", 300 * 40)  # several passes
    seen: list[tuple[int, int]] = []
    found = side_effects(model, PASSAGES, text="films", progress=lambda done, total: seen.append((done, total)))
    base, edited, divergence = np.mean(by_hand(model, architecture, PASSAGES), axis=0)
    assert found.base_cross_entropy.value == pytest.approx(base, abs=1e-4)
    assert found.cross_entropy.value == pytest.approx(edited, abs=1e-4)
    assert found.change.value == pytest.approx(edited - base, abs=1e-4)
    assert found.kl.value == pytest.approx(divergence, abs=1e-4) and divergence > 0.001
    assert found.tokens == len(by_hand(model, architecture, PASSAGES)) and found.passages == 4
    assert found.text == "films" and len(seen) > 1 and seen[-1] == (4, 4)
    for mean in (found.base_cross_entropy, found.cross_entropy, found.change, found.kl):
        assert mean.low is not None and mean.high is not None and mean.low < mean.value < mean.high
    assert found.to_dict()["kl"]["value"] == found.kl.value
    assert found.to_frame().nats.tolist()[-1] == found.kl.value


@pytest.mark.parametrize("settings", [LoRAConfig(rank=2), LoReFTConfig(rank=2)])
def test_edits_at_their_start_have_no_side_effects_and_moved_ones_have(settings: LoRAConfig | LoReFTConfig) -> None:
    model = JoLAModel(make_model("llama"), make_tokenizer(), settings).eval()
    at_start = side_effects(model, PASSAGES)
    assert at_start.kl.value < 1e-6 and abs(at_start.change.value) < 1e-5
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    assert side_effects(model, PASSAGES).kl.value > 1e-4
    assert side_effects(model, PASSAGES, strength=0.0).kl.value < 1e-6


def test_long_passages_are_cut_and_long_texts_end(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("gpt2")  # has positions for 256 tokens
    monkeypatch.setattr(module, "MOST_TOKENS", 700)
    found = side_effects(model, ["film " * 60, "a number " * 300, "a word " * 300])
    film = len(model.tokenizer("film " * 60)["input_ids"])
    cut = [*([256] * (film // 256)), film % 256, *([256] * ((700 - film) // 256)), (700 - film) % 256]
    assert 1 not in cut and sum(cut) == 700
    assert found.passages == 2 and found.tokens == 700 - len(cut)
    # Passages after the last scored token are not tokenized.
    monkeypatch.setattr(module, "MOST_TOKENS", film)
    monkeypatch.setattr(model, "tokenizer", counted := Mock(wraps=model.tokenizer, pad_token_id=0))
    side_effects(model, ["film " * 60, "a number " * 300, "a word " * 300])
    assert counted.call_count == 1


def test_parts_of_a_passage_are_resampled_together(tiny: Make) -> None:
    model = tiny("gpt2")
    # The parts differ a lot, and one passage has no interval.
    found = side_effects(model, ["film " * 300 + "a number " * 300])
    assert found.passages == 1 and found.base_cross_entropy.low is found.kl.low is None


def test_the_own_text_has_forty_passages(tiny: Make) -> None:
    passages = plain_text()
    assert len(passages) == len(set(passages)) == 40
    assert all(30 < len(passage.split()) < 70 for passage in passages)
    found = side_effects(tiny("llama"), passages[:2])
    assert found.text == "given text"
    assert side_effects(tiny("llama")).text == OWN_TEXT


def test_one_passage_has_no_interval(tiny: Make) -> None:
    found = side_effects(tiny("llama"), PASSAGES[:1])
    assert found.kl.low is None and found.kl.high is None and str(found.kl) == f"{found.kl.value:.4g}"


def test_files_of_passages(tmp_path: Path, tiny: Make) -> None:
    file = tmp_path / "text.txt"
    file.write_bytes(b"\xef\xbb\xbfOne line\r\nand another.\r\n \t\r\n\r\nSecond.\r\n")
    assert read_passages(file) == ["One line\nand another.", "Second."]
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        read_passages(file)
    file.write_text(" \n\n ")
    with pytest.raises(InputError, match="no text"):
        read_passages(file)
    for path in (tmp_path, tmp_path / "none.txt"):
        with pytest.raises(InputError, match="cannot be read"):
            read_passages(path)
    with pytest.raises(InputError, match="at least two tokens"):
        side_effects(tiny("llama"), [""])
