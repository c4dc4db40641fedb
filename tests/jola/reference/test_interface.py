"""Scripts of the reference package run with jola: its names, arguments, configuration file and data."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoTokenizer, PreTrainedTokenizerFast, TrainingArguments

import jola
from jola import JoLAConfig, JoLADataset, JoLAModel, JoLATrainer, data_from_list, make_data_collator
from jola.data.examples import IGNORED, Encoded
from jola.errors import InputError
from tests import ROOT

# The calls of the reference package's examples/run_jola.py, in the same order.
SCRIPT = """
import torch
from jola import JoLAConfig, JoLADataset, JoLAModel, JoLATrainer, make_data_collator
from transformers import AutoTokenizer, EarlyStoppingCallback, TrainingArguments

config = JoLAConfig.get_jola_config(default=False, config_path="config.yaml")
tokenizer = AutoTokenizer.from_pretrained(**config["model_config"])
tokenizer.padding_side = "right"
model = JoLAModel.jola_from_pretrained(**config["model_config"])
model.unfreeze_jola_params()
model.model.train()
if tokenizer.pad_token is None:
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    model.resize_token_embeddings(model.config.vocab_size + 1)
collator = make_data_collator(tokenizer=tokenizer)
data = JoLADataset(data_path=config["data_config"]["data_path"]).data_from_file()
stop_early = EarlyStoppingCallback(early_stopping_patience=2, early_stopping_threshold=0.0)
arguments = TrainingArguments(**config["training_config"])
trainer = JoLATrainer(
    model,
    train_dataset=data["train"],
    eval_dataset=data["valid"],
    tokenizer=tokenizer,
    data_collator=collator,
    args=arguments,
    callbacks=[stop_early],
    gate_scheduler=config["jola_config"]["gate_scheduler"],
)
torch.autograd.set_detect_anomaly(True)
if not config["jola_config"]["gate_scheduler"]:
    trainer.gated_lambda = config["jola_config"]["gate_lambda"]
trainer.train()
"""


def examples(count: int, start: int = 0) -> list[dict[str, str]]:
    return [
        {"instruction": f"Is film {i} good or bad?", "answer": "good" if i % 2 else "bad"}
        for i in range(start, start + count)
    ]


@pytest.fixture
def script_folder(tmp_path: Path, tiny_folder: Path) -> Path:
    """A folder like that of a user of the reference package: settings in YAML and three data files."""
    folder = tmp_path / "project"
    data = folder / "data"
    data.mkdir(parents=True)
    for part, start, count in (("train", 0, 10), ("valid", 10, 4), ("test", 14, 3)):
        lines = [json.dumps(row) + "\n" for row in examples(count, start)]
        (data / f"{part}.json").write_text("".join(lines))
    (folder / "config.yaml").write_text(yaml.safe_dump(settings(tiny_folder, data)))
    return folder


def settings(model: Path, data: Path) -> dict[str, Any]:
    return {
        "model_config": {
            "pretrained_model_name_or_path": str(model),
            "device": "cpu",
            "cache_dir": "/nonexistent/cache",
            "applied_module": "attention",
            "base_model_name": "llama3.1_8B_chat",
        },
        "training_config": {
            "learning_rate": 0.005,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 1,
            "per_device_train_batch_size": 4,
            "per_device_eval_batch_size": 4,
            "num_train_epochs": 1,
            "evaluation_strategy": "epoch",
            "save_strategy": "epoch",
            "load_best_model_at_end": True,
            "save_total_limit": 1,
            "report_to": "none",
            "logging_strategy": "epoch",
            "seed": 42,
            "do_train": True,
            "do_eval": True,
            "bf16": False,
            "output_dir": "./output",
        },
        "data_config": {"train_size": 200, "task_name": "common_reason", "data_path": str(data)},
        "jola_config": {"gate_lambda": 0.00004, "gate_scheduler": "expon"},
    }


class TestScript:
    @pytest.mark.parametrize("pad", [True, False])
    def test_the_example_runs(
        self, script_folder: Path, tiny_folder: Path, tokenizer: PreTrainedTokenizerFast, pad: bool
    ) -> None:
        if not pad:
            file = tiny_folder / "tokenizer_config.json"
            config = json.loads(file.read_text())
            del config["pad_token"]
            file.write_text(json.dumps(config))
            values = yaml.safe_load((script_folder / "config.yaml").read_text())
            values["jola_config"]["gate_scheduler"] = False
            (script_folder / "config.yaml").write_text(yaml.safe_dump(values))
        (script_folder / "run_jola.py").write_text(SCRIPT)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "run_jola.py"]
        done = subprocess.run(command, cwd=script_folder, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        (checkpoint,) = (script_folder / "output").glob("checkpoint-*")
        state = json.loads((checkpoint / "trainer_state.json").read_text())
        assert (state["global_step"], state["max_steps"]) == (3, 3)
        logged = {name: value for entry in state["log_history"] for name, value in entry.items()}
        # λ after two decay steps from 0.1, or as set by the script.
        assert logged["l0_weight"] == pytest.approx(0.1 * 2.718281828**-0.02 if pad else 0.00004)
        assert logged["eval_loss"] > 0

    def test_the_form_of_the_readme(self, script_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        jola_config = JoLAConfig(default=False, config_path=script_folder / "config.yaml")
        tokenizer = AutoTokenizer.from_pretrained(**jola_config["model_config"])
        model = JoLAModel.jola_from_pretrained(**jola_config["model_config"])
        model.unfreeze_jola_params()
        model.model.train()
        before = [parameter.detach().clone() for parameter in model.parameters()]
        training_examples = [text for row in examples(8) for text in (row["instruction"], row["answer"])]
        data_collator = make_data_collator(tokenizer=tokenizer)
        jola_data = JoLADataset(train_list=training_examples).data_from_list()
        assert not jola_data["valid"]
        trainer = JoLATrainer(
            model,
            train_dataset=jola_data["train"],
            eval_dataset=jola_data["valid"],
            tokenizer=tokenizer,
            data_collator=data_collator,
            args=TrainingArguments(**jola_config["training_config"], use_cpu=True, disable_tqdm=True),
            callbacks=[],
            gate_scheduler=jola_config["jola_config"]["gate_scheduler"],
        )
        trainer.train()
        # One of the eight examples is held out, because the settings ask for validation without data for it.
        assert (len(trainer.train_dataset), len(trainer.eval_dataset)) == (7, 1)
        assert trainer.state.global_step == 2
        assert any("eval_loss" in entry for entry in trainer.state.log_history)
        assert not any(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))

    def test_the_names_it_imports(self) -> None:
        names = {"JoLAConfig", "JoLADataset", "JoLAModel", "JoLATrainer", "data_from_list", "make_data_collator"}
        assert names <= set(jola.__all__)
        assert all(callable(getattr(jola, name)) for name in names)


class TestConfig:
    def test_a_file_of_settings(self, script_folder: Path, tiny_folder: Path) -> None:
        path = script_folder / "config.yaml"
        values = JoLAConfig.get_jola_config(default=False, config_path=path)
        expected = settings(tiny_folder, script_folder / "data")
        expected["training_config"]["eval_strategy"] = expected["training_config"].pop("evaluation_strategy")
        assert values == expected
        assert JoLAConfig(default=False, config_path=path)["jola_config"] == expected["jola_config"]

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            (None, "Cannot read the settings in"),
            (b"a: [", "Cannot read the settings in"),
            (b"\xff\xfe\xfa", "Cannot read the settings in"),
            (b"just text", "contains no groups of settings"),
            (b"", "contains no groups of settings"),
            (b"training_config: 3", "training_config in .* is 3; it must be a group"),
        ],
    )
    def test_files_that_are_none(self, tmp_path: Path, content: bytes | None, sentence: str) -> None:
        if content is not None:
            (tmp_path / "config.yaml").write_bytes(content)
        with pytest.raises(InputError, match=sentence):
            JoLAConfig.get_jola_config(default=False, config_path=tmp_path / "config.yaml")

    def test_no_file_at_all(self) -> None:
        with pytest.raises(InputError, match="needs config_path"):
            JoLAConfig(default=False)["model_config"]

    def test_a_group_that_there_is_not(self, script_folder: Path) -> None:
        with pytest.raises(KeyError, match="nonsense"):
            JoLAConfig(default=False, config_path=script_folder / "config.yaml")["nonsense"]

    @pytest.mark.parametrize(
        ("module", "sites"), [("attention", ["heads"]), ("mlp", ["mlp"]), ("both", ["heads", "mlp"])]
    )
    def test_where_the_edits_are(self, tiny_folder: Path, module: str, sites: list[str]) -> None:
        model = JoLAModel.jola_from_pretrained(str(tiny_folder), device="cpu", applied_module=module)
        assert [str(e.site) for e in model.gated_edits()] == sites
        assert model.unfreeze_jola_params() is model
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert not any(parameter.requires_grad for parameter in model.base.parameters())

    def test_a_module_that_is_none(self, tiny_folder: Path) -> None:
        with pytest.raises(InputError, match="applied_module is 'embedding'; choose one of attention, mlp, both"):
            JoLAModel.jola_from_pretrained(str(tiny_folder), applied_module="embedding")


class TestDataset:
    PROMPT = (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n"
        " ### Instruction:\n{}\n\n### Response:\n"
    )

    def test_files(self, script_folder: Path) -> None:
        data = JoLADataset(data_path=script_folder / "data").data_from_file()
        assert {part: rows.column_names for part, rows in data.items()} == {
            "train": ["text"],
            "valid": ["text"],
            "test": ["prompt", "target_text"],
        }
        assert [len(data[part]) for part in ("train", "valid", "test")] == [10, 4, 3]
        assert data["train"]["text"][1] == self.PROMPT.format("Is film 1 good or bad?") + "good"
        assert data["test"][0] == {"prompt": self.PROMPT.format("Is film 14 good or bad?"), "target_text": "bad"}

    def test_a_sample(self, script_folder: Path) -> None:
        whole = JoLADataset(data_path=script_folder / "data", train_size=0).data_from_file()
        data = JoLADataset(data_path=script_folder / "data", train_size=4).data_from_file()
        assert [len(data[part]) for part in ("train", "valid", "test")] == [4, 4, 3]
        assert len(whole["train"]) == 10
        assert set(data["train"]["text"]) < set(whole["train"]["text"])

    def test_lists(self) -> None:
        flat = [text for row in examples(5) for text in (row["instruction"], row["answer"])]
        both = [JoLADataset(train_list=given).data_from_list() for given in (flat, examples(5))]
        assert both[0]["train"]["text"] == both[1]["train"]["text"]
        assert both[0]["train"]["text"][1] == self.PROMPT.format("Is film 1 good or bad?") + "good"
        assert len(data_from_list(flat)["train"]) == 5
        assert (both[0]["valid"], both[0]["test"]) == ({}, {})

    @pytest.mark.parametrize(
        ("given", "sentence"),
        [
            (None, "has no train_list"),
            ([], "has no train_list"),
            (["a question"], "has 1 strings; instructions and answers must come in pairs"),
            ([{"instruction": "x"}], "Example 1 of train_list lacks 'instruction' or 'answer'"),
            ([*examples(1), "x"], "Example 2 of train_list lacks"),
        ],
    )
    def test_lists_that_are_none(self, given: Any, sentence: str) -> None:
        with pytest.raises(InputError, match=sentence):
            JoLADataset(train_list=given).data_from_list()

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            (None, r"Cannot read .*valid\.json"),
            ("\xff".encode("latin-1"), r"Cannot read .*valid\.json"),
            (b'{"instruction": "a", "answer": "b"}\nnonsense\n', r"Line 2 of .*valid\.json is not valid JSON"),
            (b'{"question": "a"}\n', r"Line 1 of .*valid\.json lacks 'instruction' or 'answer'"),
            (b"", r"valid\.json contains no examples"),
            (b'{"instruction": "a", "answer": 3}\n', r"Line 1 of .*valid\.json has an .* that is not text"),
        ],
    )
    def test_files_that_are_none(self, script_folder: Path, content: bytes | None, sentence: str) -> None:
        file = script_folder / "data" / "valid.json"
        file.unlink()
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(InputError, match=sentence):
            JoLADataset(data_path=script_folder / "data").data_from_file()

    def test_no_folder(self) -> None:
        with pytest.raises(InputError, match="has no data_path"):
            JoLADataset().data_from_file()

    def test_a_line_separator_inside_a_text_is_no_end_of_line(self, script_folder: Path) -> None:
        row = {"instruction": "one\u2028two\u0085three", "answer": "good"}
        (script_folder / "data" / "train.json").write_text(json.dumps(row, ensure_ascii=False) + "\n")
        data = JoLADataset(data_path=script_folder / "data").data_from_file()
        assert data["train"]["text"] == [self.PROMPT.format(row["instruction"]) + "good"]


class TestCollator:
    def texts(self, count: int = 2) -> list[dict[str, str]]:
        return [{"text": text} for text in JoLADataset(train_list=examples(count)).data_from_list()["train"]["text"]]

    def test_the_loss_is_on_the_answer_and_its_end(self, tokenizer: PreTrainedTokenizerFast) -> None:
        batch = make_data_collator(tokenizer=tokenizer)(self.texts())
        for row, answer in enumerate(("bad", "good")):
            ids, labels = batch["input_ids"][row], batch["labels"][row]
            bears = labels != IGNORED
            assert torch.equal(labels[bears], ids[bears])
            assert tokenizer.decode(labels[bears]) == f"{answer}{tokenizer.eos_token}"
            prompt = ids[: int(bears.nonzero()[0])]
            assert tokenizer.decode(prompt) == TestDataset.PROMPT.format(f"Is film {row} good or bad?")
            assert torch.equal(batch["attention_mask"][row].bool(), torch.arange(len(ids)) <= bears.nonzero()[-1])

    def test_tokens_instead_of_text(self, tokenizer: PreTrainedTokenizerFast) -> None:
        collator = make_data_collator(tokenizer=tokenizer)
        tokens = [{"input_ids": tokenizer(row["text"])["input_ids"]} for row in self.texts()]
        from_text, from_tokens = collator(self.texts()), collator(tokens)
        assert all(torch.equal(from_tokens[name], tensor) for name, tensor in from_text.items())

    def test_another_response_template(self, tokenizer: PreTrainedTokenizerFast) -> None:
        collator = make_data_collator("Answer: ", tokenizer=tokenizer)
        batch = collator([{"text": "A question. Answer: no. Answer: yes"}])
        assert tokenizer.decode(batch["labels"][0][batch["labels"][0] != IGNORED]) == f"yes{tokenizer.eos_token}"

    @pytest.mark.parametrize("text", ["no template at all", "a question\n### Response:\n"])
    def test_a_text_without_an_answer(self, tokenizer: PreTrainedTokenizerFast, text: str) -> None:
        with pytest.raises(InputError, match="has no answer after '### Response"):
            make_data_collator(tokenizer=tokenizer)([{"text": text}])

    def test_arguments_that_cannot_be(self, tokenizer: PreTrainedTokenizerFast) -> None:
        with pytest.raises(InputError, match="needs a tokenizer"):
            make_data_collator()
        with pytest.raises(InputError, match="mlm"):
            make_data_collator(tokenizer=tokenizer, mlm=True)


class TestTexts:
    @pytest.fixture
    def trainer(self, tiny: Callable[..., JoLAModel], tmp_path: Path) -> Callable[..., JoLATrainer]:
        def make(rows: Any, validation: Any = None, *, eval_strategy: str = "no", **options: Any) -> JoLATrainer:
            args = TrainingArguments(
                str(tmp_path / "out"), use_cpu=True, report_to="none", eval_strategy=eval_strategy, max_steps=1
            )
            return JoLATrainer(tiny("llama"), args, rows, validation, **options)

        return make

    def test_texts_that_are_too_long_are_left_out_and_counted(
        self, trainer: Callable[..., JoLATrainer], caplog: pytest.LogCaptureFixture
    ) -> None:
        rows = [*examples(3), {"instruction": "long " * 300, "answer": "good"}]
        data = JoLADataset(train_list=rows).data_from_list()
        made = trainer(data["train"])
        assert len(made.train_dataset) == 3
        assert all(isinstance(row, Encoded) for row in made.train_dataset)
        assert "1 of 4 training texts are longer than 400 tokens and are left out" in caplog.text
        with pytest.raises(InputError, match="No training text fits into max_seq_length = 5 tokens"):
            trainer(data["train"], max_seq_length=5)

    def test_validation_texts_are_taken_as_they_are(self, trainer: Callable[..., JoLATrainer]) -> None:
        data = [JoLADataset(train_list=examples(n)).data_from_list()["train"] for n in (6, 2)]
        made = trainer(*data, eval_strategy="steps")
        assert (len(made.train_dataset), len(made.eval_dataset)) == (6, 2)
        assert made.evaluate()["eval_loss"] > 0

    def test_what_is_held_out_depends_on_the_seed_alone(self, trainer: Callable[..., JoLATrainer]) -> None:
        data = JoLADataset(train_list=examples(30)).data_from_list()["train"]
        one, two = (trainer(data, {}, eval_strategy="steps") for _ in range(2))
        assert one.eval_dataset == two.eval_dataset
        assert len(one.eval_dataset) == 3
        assert not {tuple(r.input_ids) for r in one.eval_dataset} & {tuple(r.input_ids) for r in one.train_dataset}
        with pytest.raises(InputError, match="One example cannot be split"):
            trainer(JoLADataset(train_list=examples(1)).data_from_list()["train"], {}, eval_strategy="steps")


@pytest.mark.default_model
def test_the_defaults_load_and_train(default_assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = JoLAConfig.get_jola_config(default=True)
    assert JoLAConfig(default=True)["jola_config"] == config["jola_config"]
    tokenizer = AutoTokenizer.from_pretrained(**config["model_config"])
    model = JoLAModel.jola_from_pretrained(**config["model_config"])
    model.unfreeze_jola_params()
    data = JoLADataset(data_path=config["data_config"]["data_path"]).data_from_file()
    assert (len(data["train"]), len(data["valid"])) == (200, 200)
    assert data["train"]["text"][0].startswith(TestDataset.PROMPT.partition("{}")[0])
    before = [parameter.detach().clone() for parameter in model.parameters()]
    arguments = config["training_config"] | {"max_steps": 2, "warmup_steps": 0, "logging_strategy": "steps"}
    arguments |= {"logging_steps": 1, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    trainer = JoLATrainer(
        model,
        train_dataset=data["train"],
        eval_dataset=data["valid"],
        tokenizer=tokenizer,
        data_collator=make_data_collator(tokenizer=tokenizer),
        args=TrainingArguments(**arguments, use_cpu=True, disable_tqdm=True),
        callbacks=[],
        gate_scheduler=config["jola_config"]["gate_scheduler"],
    )
    trainer.train()
    losses = [entry["cross_entropy"] for entry in trainer.state.log_history if "cross_entropy" in entry]
    assert len(losses) == 2
    assert all(0 < loss < 20 for loss in losses)
    assert not any(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
