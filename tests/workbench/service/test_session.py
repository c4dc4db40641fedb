"""Access to loaded models: one thread, limits, masks per call, and answers that equal the model's own."""

import json
import os
import re
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from jola.edits.masks import HeadMask
from jola.errors import InputError
from jola.jola_model import JoLAModel
from jola.runs.run import Run
from jola.system.threads import Sample, ThreadControl
from tests.workbench.edited import CountingLoader, edited_run
from workbench.service.calls import Superseded
from workbench.service.loader import Loaded, Loader
from workbench.service.session import Desk, Prompt, Session, Use
from workbench.settings import Limits, Settings

QUESTION = Prompt.of("A fine film about small things.")


@pytest.fixture
def runs(tmp_path: Path, tiny_folder: Path) -> list[Run]:
    return [edited_run(tmp_path / name, tiny_folder, seed=seed) for seed, name in enumerate(("one", "two", "three"))]


@pytest.fixture
def loader(tiny_folder: Path, tokenizer: PreTrainedTokenizerFast) -> CountingLoader:
    return CountingLoader(JoLAModel.from_pretrained(str(tiny_folder), dtype="float32"), tokenizer)


@pytest.fixture
def session(loader: CountingLoader) -> Iterator[Session]:
    session = Session(Limits(prompt_tokens=64, new_tokens=12), loader)
    yield session
    session.close()


def written(session: Session, stack: list[Use], count: int = 10, **more: object) -> list[str]:
    return list(session.generate(stack, QUESTION, new_tokens=count, **more).texts())


def own_model(run: Run) -> JoLAModel:
    return JoLAModel.from_adapter(run.adapter_dir, dtype="float32")


def expected(loader: CountingLoader, run: Run | None, count: int, mask: HeadMask | None = None) -> str:
    model = own_model(run) if run else loader.model
    ids, ends = loader.template.encode_prompt(QUESTION.example()), loader.template.end_token_ids
    tokens = torch.tensor([ids])
    options = {"max_new_tokens": count, "do_sample": False, "eos_token_id": ends}
    with torch.no_grad():
        if run is None:
            full = model.base.generate(tokens, pad_token_id=0, **options)
        else:
            full = model.generate(tokens, mask=mask.edit_mask() if mask else None, **options)
    return str(model.tokenizer.decode(full[0, len(ids) :], skip_special_tokens=True))


def test_the_streamed_answer_is_the_model_s_own(session: Session, loader: CountingLoader, runs: list[Run]) -> None:
    for stack, run in (([Use(runs[0])], runs[0]), ([], None)):
        texts = written(session, stack, base=runs[0])
        assert texts[-1] == expected(loader, run, 10)
        assert all(texts[-1].startswith(text) for text in texts)
    assert expected(loader, runs[0], 10) != expected(loader, None, 10)


def test_next_tokens_are_those_of_the_model_with_and_without_edits(session: Session, runs: list[Run]) -> None:
    def look(desk: Desk) -> tuple[torch.Tensor, torch.Tensor]:
        return desk.next_log_probabilities(desk.encode(QUESTION))

    base, edited = session.ask([Use(runs[0])], look).result()
    model = own_model(runs[0])
    ids = torch.tensor([Loader().base(runs[0]).template(runs[0]).encode_prompt(QUESTION.example())])
    with torch.no_grad():
        assert torch.allclose(edited, model.forward(ids).logits[0, -1].log_softmax(-1), atol=1e-5)
        assert torch.allclose(base, model.base(ids).logits[0, -1].log_softmax(-1), atol=1e-5)
    assert not torch.allclose(base, edited, atol=1e-3)


def test_a_prompt_without_edits_is_computed_once(
    session: Session, loader: CountingLoader, runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    forward = loader.model.forward
    monkeypatch.setattr(loader.model, "forward", lambda *a, **k: passes.append(loader.model.in_use) or forward(*a, **k))

    def look(desk: Desk) -> object:
        return desk.next_log_probabilities(desk.encode(QUESTION))

    for mask in (HeadMask.all(*_shape(loader)), HeadMask.none(*_shape(loader))):
        session.ask([Use(runs[0], {"heads": mask})], look).result()
    assert [len(edits) for edits in passes] == [0, 1, 1]


def test_masks_and_strength_go_with_the_call(session: Session, loader: CountingLoader, runs: list[Run]) -> None:
    mask = HeadMask.all(*_shape(loader)).switched([(0, 0), (1, 1)], "both", False)

    def logits(desk: Desk) -> torch.Tensor:
        found = desk.model.forward(torch.tensor([desk.encode(QUESTION)]), mask=list(desk.masks)).logits
        assert found is not None
        return found

    masked = session.ask([Use(runs[0], {"heads": mask}, 0.5)], logits).result()
    off = session.ask([Use(runs[0], {"heads": HeadMask.none(*_shape(loader))})], logits).result()
    plain = session.ask([], logits, base=runs[0]).result()
    model = own_model(runs[0])
    ids = torch.tensor([loader.template.encode_prompt(QUESTION.example())])
    with torch.no_grad():
        assert torch.equal(masked, model.forward(ids, mask=mask.edit_mask(), strength=0.5).logits)
    assert torch.equal(off, plain)


def test_a_second_adapter_edits_what_the_first_has_left(session: Session, runs: list[Run]) -> None:
    from jola import load_edits

    def logits(desk: Desk) -> torch.Tensor:
        found = desk.model.forward(torch.tensor([desk.encode(QUESTION)]), mask=list(desk.masks)).logits
        assert found is not None
        return found

    both = session.ask([Use(runs[0]), Use(runs[1])], logits).result()
    model = own_model(runs[0])
    ids = torch.tensor([Loader().base(runs[0]).template(runs[0]).encode_prompt(QUESTION.example())])
    with torch.no_grad(), model.using([*model.gated_edits(), *load_edits(runs[1].adapter_dir, model)]):
        assert torch.equal(both, model.forward(ids).logits)


def test_a_mask_of_another_shape_is_refused(session: Session, runs: list[Run]) -> None:
    with pytest.raises(InputError, match="The mask is for 1 × 1 edits"):
        session.ask([Use(runs[0], {"heads": HeadMask.all(1, 1)})], lambda desk: None).result()


def test_an_answer_is_never_longer_than_the_limit(session: Session, loader: CountingLoader, runs: list[Run]) -> None:
    assert written(session, [], 10_000, base=runs[0])[-1] == expected(loader, None, 12)


def test_a_long_prompt_is_refused_with_its_length(session: Session, runs: list[Run]) -> None:
    with pytest.raises(InputError, match=r"at most 64 are allowed; shorten it"):
        list(session.generate([Use(runs[0])], Prompt.of("film " * 100), new_tokens=4).texts())


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(InputError, match="prompt is empty"):
        Prompt.of("  \n")


def test_a_plain_text_is_read_without_a_template(session: Session, loader: CountingLoader, runs: list[Run]) -> None:
    text = "A fine film"
    ids = session.ask([Use(runs[0])], lambda desk: desk.encode(Prompt.of(text, plain=True))).result()
    assert ids == loader.model.tokenizer(text)["input_ids"]
    assert len(session.ask([Use(runs[0])], lambda desk: desk.encode(Prompt.of(text))).result()) > len(ids)


def test_a_run_without_an_adapter_is_refused_at_once(session: Session, runs: list[Run]) -> None:
    (runs[0].adapter_dir / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match="no adapter"):
        session.prepare(runs[0])


def test_runs_of_one_base_model_share_it(session: Session, loader: CountingLoader, runs: list[Run]) -> None:
    assert not session.is_loaded(runs[0])
    for run in (runs[0], runs[1], runs[0], runs[2], runs[1]):
        session.prepare(run).result()
    assert loader.bases == ["one"]
    assert loader.adapters == ["one", "two", "three"]
    assert session.is_loaded(runs[2])


def test_runs_of_one_base_model_keep_their_own_templates(tiny_folder: Path, tmp_path: Path) -> None:
    session = Session(Limits())
    models, kinds, texts = set(), [], []
    for template in ("chat", "plain", "chat"):
        run = edited_run(tmp_path / f"{len(kinds)}", tiny_folder, template=template)
        for stack in ([Use(run)], []):
            desk = session.ask(stack, lambda desk: desk, base=run).result()
            models.add(id(desk.model))
            kinds.append(desk.template.kind)
            texts.append(desk.model.tokenizer.decode(desk.encode(QUESTION)))
    assert kinds == ["chat", "chat", "plain", "plain", "chat", "chat"]
    assert len(models) == 1
    assert texts[0] == texts[4] != texts[2] == texts[3]
    session.close()


def test_the_base_model_that_was_used_longest_ago_goes(loader: CountingLoader, runs: list[Run]) -> None:
    loader.base_name = lambda run, remote=False: run.id
    session = Session(Limits(loaded_models=2), loader)
    for run in (runs[0], runs[1], runs[0], runs[2], runs[0], runs[1]):
        session.prepare(run).result()
    assert loader.bases == ["one", "two", "three", "two"]
    assert not session.is_loaded(runs[2])
    session.close()


def test_a_model_that_goes_is_released_before_another_is_loaded(
    tiny_folder: Path, loader: CountingLoader, runs: list[Run]
) -> None:
    models: list[weakref.ref[torch.nn.Module]] = []
    alive: list[int] = []

    def base(run: Run, remote: bool = False) -> Loaded:
        alive.append(sum(model() is not None for model in models))
        loaded = Loaded(JoLAModel.from_pretrained(str(tiny_folder), dtype="float32"), {"auto": loader.template})
        models.append(weakref.ref(loaded.model.base))
        return loaded

    loader.base, loader.base_name = base, lambda run, remote=False: run.id
    session = Session(Limits(loaded_models=1, new_tokens=4), loader)
    for run in runs:
        written(session, [Use(run)], 4)
    assert alive == [0, 0, 0]
    session.close()


def test_an_adapter_that_was_written_again_is_loaded_again(
    session: Session, loader: CountingLoader, runs: list[Run]
) -> None:
    session.prepare(runs[0]).result()
    os.utime(runs[0].adapter_dir / "adapter_model.safetensors", ns=(1, 1))
    session.prepare(runs[0]).result()
    assert loader.adapters == ["one", "one"]


def test_what_loading_raises_reaches_the_caller(loader: CountingLoader, runs: list[Run]) -> None:
    def refuse(run: Run, remote: bool) -> Loaded:
        raise InputError("The model is not there.")

    loader.base = refuse
    with pytest.raises(InputError, match="not there"):
        Session(Limits(), loader).prepare(runs[0]).result()


def test_eight_users_with_different_masks_get_their_own_answers(
    session: Session, loader: CountingLoader, runs: list[Run]
) -> None:
    layers, units = _shape(loader)
    everything = HeadMask.all(layers, units)
    masks = [everything.switched([(n % layers, n % units)], "both", False) for n in range(7)] + [everything]
    alone = [expected(loader, runs[0], 6, mask) for mask in masks]

    def ask(number: int) -> str:
        return written(session, [Use(runs[0], {"heads": masks[number % 8]})], 6)[-1]

    with ThreadPoolExecutor(8) as users:
        together = list(users.map(ask, range(24)))
    assert together == alone * 3
    assert len(set(alone)) > 1
    assert len(loader.threads) == 1


@pytest.fixture
def endless(loader: CountingLoader, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """A session whose answers would take minutes."""
    loader.template._end_token_ids = [299]
    session = Session(Limits(new_tokens=100_000, generation_seconds=600), loader)
    yield session
    session.close()


def test_a_stopped_answer_ends_as_it_is(endless: Session, runs: list[Run]) -> None:
    writing = endless.generate([], QUESTION, new_tokens=100_000, base=runs[0])
    texts = []
    for text in writing.texts():
        texts.append(text)
        if text:
            writing.ticket.stop.set()
    assert texts[-1].startswith(texts[0])
    assert writing.stopped


def test_closing_the_stream_stops_the_generation(endless: Session, runs: list[Run]) -> None:
    stream = endless.generate([], QUESTION, new_tokens=100_000, base=runs[0]).texts()
    next(stream)
    stream.close()
    assert endless.prepare(runs[0]).done(300)  # the worker is free again


def test_a_page_that_asks_anew_ends_its_older_answer(endless: Session, runs: list[Run]) -> None:
    older = endless.generate([], QUESTION, new_tokens=100_000, base=runs[0], page="a", kind="answer")
    next(older.texts())
    newer = endless.generate([], QUESTION, new_tokens=2, base=runs[0], page="a", kind="answer")
    assert list(newer.texts())[-1] != ""
    assert older.ticket.done()


def test_who_waits_sees_a_place(endless: Session, runs: list[Run]) -> None:
    stream = endless.generate([], QUESTION, new_tokens=100_000, base=runs[0]).texts()
    next(stream)
    waiting = endless.generate([], QUESTION, new_tokens=2, base=runs[0])
    texts = waiting.texts()
    assert next(texts) == "" and waiting.ticket.place == 1
    stream.close()
    assert list(texts)[-1] != ""


def test_closing_the_session_ends_the_answer_that_is_being_written(endless: Session, runs: list[Run]) -> None:
    writing = endless.generate([], QUESTION, new_tokens=100_000, base=runs[0])
    stream = writing.texts()
    next(stream)
    endless.close()
    list(stream)
    assert writing.stopped
    with pytest.raises(Superseded):
        endless.prepare(runs[0])


def test_cores_are_left_to_a_run_that_trains(loader: CountingLoader, runs: list[Run]) -> None:
    training = [False]
    session = Session(Limits(), loader, training=lambda: training[0])
    quiet = Sample(0.0, 0.0, 0.0, 4)
    session._control = ThreadControl(4, lambda _: None, lambda: quiet)
    threads = []
    for busy in (False, True, False):
        training[0] = busy
        session.ask([Use(runs[0])], lambda desk: threads.append(torch.get_num_threads())).result()
    assert threads == [4, 1, 4]
    session.close()


def test_time_ends_an_answer(loader: CountingLoader, runs: list[Run]) -> None:
    session = Session(Limits(new_tokens=100_000, generation_seconds=0), loader)
    assert written(session, [], 100_000, base=runs[0])[-1] == expected(loader, None, 1)
    session.close()


def test_a_run_s_own_model_is_loaded_as_the_run_had_it(runs: list[Run], tiny_folder: Path) -> None:
    loaded = Loader().base(runs[0])
    assert loaded.model.base.dtype == torch.float32
    assert loaded.template(runs[0]).kind == "chat"
    assert Loader().base_name(runs[0]) == Loader().base_name(runs[1])
    assert str(tiny_folder) in Loader().base_name(runs[0])


def test_warming_up_is_no_work_for_anybody_else(session: Session, runs: list[Run]) -> None:
    session.warm_up()
    session.prepare(runs[0]).result()
    session.close()
    session.warm_up()  # and has no effect any more


def _shape(loader: CountingLoader) -> tuple[int, int]:
    return loader.model.geometry.num_layers, loader.model.geometry.num_heads


def test_the_device_map_of_a_run_is_checked_like_its_model(runs: list[Run], tiny_folder: Path) -> None:
    config = json.loads((runs[0].path / "config.json").read_text())
    config["model"]["device_map"] = "/etc/secrets"
    (runs[0].path / "config.json").write_text(json.dumps(config))
    settings = Settings(host="0.0.0.0", folders=(tiny_folder,))
    with pytest.raises(InputError, match="device map '/etc/secrets' is not allowed"):
        Loader(settings.check_model).base(runs[0])


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("evil/model", "downloaded for an imported run; if you trust this name, run `hf download evil/model`"),
        ("evil/model; rm -rf x", "cannot be a model on the Hub"),
        ("/nowhere/model", "cannot be a model on the Hub"),
    ],
)
def test_the_model_of_an_imported_run_is_not_fetched(
    runs: list[Run], monkeypatch: pytest.MonkeyPatch, model: str, sentence: str
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(JoLAModel, "from_pretrained", lambda name, **_: asked.append(name))
    config = json.loads((runs[0].path / "config.json").read_text())
    config["model"]["model"] = model
    (runs[0].path / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(Loader, "_model_name", staticmethod(lambda run: model))
    with suppress(AttributeError):  # nothing was loaded, so there is no tokenizer
        Loader().base(runs[0])
    assert asked == [model]
    (runs[0].path / "config.json").write_text(json.dumps(config | {"imported": {"run": "other"}}))
    with pytest.raises(InputError, match=re.escape(sentence)):
        Loader().base(runs[0])
    assert asked == [model]
