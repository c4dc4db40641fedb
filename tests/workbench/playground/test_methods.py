"""The Playground with edits of methods without gates: RED's layers and LoRA's modules are switched like heads."""

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jola.edits.masks import SavedMasks
from jola.errors import InputError
from jola.jola_model import JoLAModel
from jola.methods.lora import LoRAConfig
from jola.methods.red import REDConfig
from jola.runs.run import Run
from tests.methods.contract import take_out
from tests.workbench.edited import CountingLoader, edited_run
from workbench.playground import results
from workbench.playground.edit_map import apply_edits, edit_map_value
from workbench.playground.snippet import snippet
from workbench.service import session as session_module
from workbench.service import views
from workbench.service.bench import Workbench
from workbench.service.page_state import (
    columns,
    edits_of,
    gates_of_edits,
    masks_text,
    name_of_unit,
    open_gates,
    open_run,
)
from workbench.service.session import Prompt, Session, Use
from workbench.settings import Limits

QUESTION = Prompt.of("A fine film about small things.")
CASES = {"lora": (LoRAConfig(rank=2, target_modules="q_proj,down_proj"), "weights"), "red": (REDConfig(), "mlp")}


@pytest.fixture(params=CASES)
def run(request: pytest.FixtureRequest, bench: Workbench, tiny_folder: Path) -> Run:
    return edited_run(bench.store.root / "one", tiny_folder, edits=CASES[request.param][0])


def next_tokens(bench: Workbench, state: Any) -> torch.Tensor:
    """Return ln p of the next token, with the edits and masks of a page."""
    (column,) = columns(bench, state)
    work = bench.session.ask(column.stack, lambda desk: desk.next_log_probabilities(desk.encode(QUESTION))[1])
    return work.result()


def test_a_unit_is_switched_as_if_it_had_not_been_trained(bench: Workbench, run: Run, tiny_folder: Path) -> None:
    state = open_run(bench, run.id)
    assert state.site == CASES[run.run_config().method][1]
    payload = {"gesture": 1, "half": "both", "cells": [[1, 0]], "action": "off"}
    mask, _ = apply_edits(state.mask, payload)
    off = state.with_mask(mask)

    model = JoLAModel.from_adapter(run.adapter_dir, model=str(tiny_folder), dtype="float32")
    template = session_module.Loader().base(run).template(run)
    ids = torch.tensor([template.encode_prompt(QUESTION.example())])

    def look() -> torch.Tensor:
        with torch.no_grad():
            return model.forward(ids).logits[0, -1].log_softmax(-1)

    trained = look()
    assert torch.allclose(next_tokens(bench, state), trained, atol=1e-5)
    take_out(model.own_interventions()[0], 1, 0)
    assert torch.allclose(next_tokens(bench, off), look(), atol=1e-5)
    assert not torch.allclose(trained, look(), atol=1e-4)


def test_a_link_and_a_saved_mask_bring_the_mask_back(bench: Workbench, run: Run) -> None:
    state = open_run(bench, run.id)
    state = state.with_mask(state.mask.with_strength([(0, 0)], "both", 0.5).toggled([(2, 0)]))
    assert open_run(bench, run.id, masks_text(state)).mask == state.mask
    SavedMasks(run.path, state.site).save("half", state.mask)
    assert SavedMasks(run.path, state.site).get("half") == state.mask
    assert "edits are on, " in state.mask.describe(open_gates(state, bench))


def test_the_map_has_the_names_and_channels_of_the_method(bench: Workbench, run: Run) -> None:
    state = open_run(bench, run.id)
    edits = edits_of(run)[state.site]
    value = edit_map_value(edits, state.mask, key=state.key, site=state.site)
    assert value["has_gates"] is False and gates_of_edits(edits) is None
    assert (value["unit_names"], value["channels"]) == (list(edits.unit_names), list(edits.channels))
    assert len(value["gate"]) == len(value["norm"]) == len(edits.channels)
    norms = np.frombuffer(base64.b64decode(value["norm"][0]), dtype="<f4").reshape(state.mask.shape)
    np.testing.assert_allclose(norms, edits.norms()[edits.channels[0]], rtol=1e-6)
    assert name_of_unit(edits, 0) == {"weights": "q_proj", "mlp": "mlp"}[state.site]


def test_the_effect_of_each_edit_is_measured(bench: Workbench, run: Run) -> None:
    state = open_run(bench, run.id)
    (column,) = columns(bench, state)
    effects = views.ask_edit_effects(bench.session, column.stack, QUESTION, "good", views.Progress()).result()
    edits = edits_of(run)[state.site]
    assert len(effects.edits) == edits.layers * edits.units * len(edits.channels)
    assert {edit.half for edit in effects.edits} == set(edits.channels)
    assert np.abs(effects.effect).max() > 0
    value = edit_map_value(edits, state.mask, site=state.site, effects=effects)
    shown = np.frombuffer(base64.b64decode(value["effect"]["value"][0]), dtype="<f4")
    assert not np.isnan(shown).any()
    table = results.effects_table(effects, "good", {state.site: edits.unit_names})
    assert f"<td>{edits.unit_names[0]}</td>" in table


def test_direct_effects_and_promoted_tokens_of_weights_are_refused(bench: Workbench, run: Run) -> None:
    state = open_run(bench, run.id)
    (column,) = columns(bench, state)
    promoted = views.ask_promoted_tokens(bench.session, column.stack, 0, 0, state.site)
    direct = views.ask_direct_effects(bench.session, column.stack, QUESTION, "good")
    if state.site == "weights":
        assert promoted.result() is None
        with pytest.raises(InputError, match="for changed weights, measure effects"):
            direct.result()
    else:
        assert promoted.result().promoted and direct.result().effect.size


def test_the_recipe_gives_the_numbers_of_the_page(
    bench: Workbench, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    state = open_run(bench, run.id)
    state = state.with_mask(state.mask.toggled([(1, 0)]))
    (column,) = columns(bench, state)
    code = snippet([column], "print(float(insight.next_tokens(model, prompt, mask=mask).kl))", QUESTION)
    exec(code, {})  # the code that the page shows
    printed = float(capsys.readouterr().out.strip().splitlines()[-1])
    base, edited = bench.session.ask(
        column.stack, lambda desk: desk.next_log_probabilities(desk.encode(QUESTION))
    ).result()
    assert printed == pytest.approx(float((edited.exp() * (edited - base)).sum()), abs=1e-4)


def test_the_whole_strength_and_another_run_on_top(bench: Workbench, run: Run, tiny_folder: Path) -> None:
    other = edited_run(bench.store.root / "two", tiny_folder, seed=2)
    state = open_run(bench, run.id)
    nothing = next_tokens(bench, replace(state, strength=0.0))
    base = bench.session.ask((), lambda desk: desk.next_log_probabilities(desk.encode(QUESTION))[0], base=run).result()
    assert torch.allclose(nothing, base, atol=1e-5)
    both = next_tokens(bench, replace(state, others=(other.id,), on_top=True))
    assert not torch.allclose(both, next_tokens(bench, state), atol=1e-3)


def test_what_is_dropped_from_the_cache_is_taken_out_of_the_model(
    tiny_folder: Path, tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "_KEPT_EDITS", 1)
    loader = CountingLoader(JoLAModel.from_pretrained(str(tiny_folder), dtype="float32"), tokenizer)
    runs = [edited_run(tmp_path / name, tiny_folder, edits=CASES["lora"][0]) for name in ("one", "two")]

    def adapters() -> set[str]:
        modules = (module for module in loader.model.base.modules() if hasattr(module, "lora_A"))
        return {name for module in modules for name in module.lora_A}

    session = Session(Limits(), loader)
    try:
        for count, run in enumerate((runs[0], runs[1], runs[0]), start=1):
            session.prepare(run).result()
            assert len(adapters()) == 1 and len(loader.adapters) == count
        session.ask([Use(run) for run in runs], lambda desk: None).result()
    finally:
        session.close()
