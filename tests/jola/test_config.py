"""Settings: one declaration for command line, files and forms, and a sentence for each value that cannot be used."""

import dataclasses
import json
import typing
from pathlib import Path
from typing import Any, Literal

import pytest
import tyro
from hypothesis import given, settings
from hypothesis import strategies as st

from jola.cli.common import run_config, settings_type
from jola.cli.main import MARKERS
from jola.config import GROUPS, EditConfig, RunConfig, TrainingConfig, flag, parse_heads, parse_layers
from jola.errors import InputError

FIELDS = {f.name: (part, f) for part in RunConfig().parts() for f in dataclasses.fields(part)}

# Any text that a shell can pass, except 'None', which the command line reads as a missing value.
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12).filter(
    lambda text: text != "None"
)
# Numbers that are within all bounds; the bounds have their own tests.
rates = st.floats(1e-9, 1)
counts = st.integers(8, 10**6)
layer_texts = st.one_of(
    st.just("all"), st.lists(st.integers(0, 99), min_size=1, max_size=5).map(lambda n: ",".join(map(str, n)))
)
OWN: dict[str, st.SearchStrategy[Any]] = {
    "device_map": st.none() | texts,
    "revision": st.none() | st.from_regex(r"[a-z0-9_][A-Za-z0-9_/-]{0,20}", fullmatch=True),
    "layers": layer_texts,
    "heads": st.just("all") | st.tuples(st.integers(0, 99), st.integers(0, 99)).map(lambda p: f"{p[0]}:{p[1]}"),
    "seed": st.integers(0, 2**32 - 1),
    "beams": st.integers(1, 16),
}


def strategy(name: str) -> st.SearchStrategy[Any]:
    """Return a strategy for valid values of a setting, from its type."""
    annotation = typing.get_type_hints(type(FIELDS[name][0]))[name]
    if typing.get_origin(annotation) is Literal:
        return st.sampled_from(typing.get_args(annotation))
    return (
        OWN[name]
        if name in OWN
        else {bool: st.booleans(), str: texts, int: counts, float: rates, float | None: rates, int | None: counts}[
            annotation
        ]
    )


def usable(config: RunConfig) -> bool:
    both = config.training.objective == "reference" and config.edits.gates == "shared"
    return not both and not (config.edits.sites == "mlp" and config.edits.heads != "all")


def build(values: dict[str, Any]) -> RunConfig:
    config = RunConfig()
    for name, value in values.items():
        part = next(p for p in config.parts() if name in {f.name for f in dataclasses.fields(p)})
        setattr(part, name, value)
    return config


configs = st.fixed_dictionaries({}, optional={name: strategy(name) for name in FIELDS}).map(build).filter(usable)


def parse(flags: list[str]) -> RunConfig:
    """Return the configuration that the command line builds from flags."""
    return run_config(tyro.cli(settings_type(RunConfig()), args=flags, config=MARKERS))


@settings(max_examples=15)
@given(configs)
def test_flags_are_what_the_command_line_reads(config: RunConfig) -> None:
    assert parse(config.validate().flags()) == config


@given(configs)
def test_a_file_gives_back_what_was_written(config: RunConfig) -> None:
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_flags_name_only_what_differs() -> None:
    assert RunConfig().flags() == []
    config = build({"l0_weight": 0.25, "task": "trec"})
    assert config.flags() == ["--task", "trec", "--l0-weight", "0.25"]
    assert flag("gate_learning_rate") == "--gate-learning-rate"


@pytest.mark.parametrize("text", ["-x", "--task", "-", "--", "-1"])
def test_a_text_with_a_dash_in_front_is_no_flag(text: str) -> None:
    assert parse(build({"output": text}).flags()).training.output == text


def test_the_defaults_are_usable_and_every_setting_explains_itself() -> None:
    assert RunConfig().validate() == RunConfig()
    names = [f.name for part in RunConfig().parts() for f in dataclasses.fields(part)]
    assert len(names) == len(set(names))
    for _, setting in FIELDS.values():
        help_line, unit, advanced = (setting.metadata[key] for key in ("help", "unit", "advanced"))
        assert help_line.endswith((".", "…")) and "\n" not in help_line, setting.name
        assert isinstance(unit, str) and isinstance(advanced, bool), setting.name


# (setting, value that cannot be used, sentence)
REFUSED = [
    ("train_size", -1, "--train-size is -1; it must be at least 0."),
    ("validation_size", -1, "--validation-size is -1; it must be at least 0."),
    ("test_size", -5, "--test-size is -5; it must be at least 0."),
    ("max_length", 7, "--max-length is 7; it must be at least 8."),
    ("gate_threshold", -0.1, "--gate-threshold is -0.1; it must be at least 0."),
    ("gate_threshold", 1.5, "--gate-threshold is 1.5; it must be at most 1."),
    ("epochs", 0, "--epochs is 0; it must be at least 1."),
    ("batch_size", 0, "--batch-size is 0; it must be at least 1."),
    ("gradient_accumulation", 0, "--gradient-accumulation is 0; it must be at least 1."),
    ("learning_rate", -1e-5, "--learning-rate is -1e-05; it must be at least 0."),
    ("learning_rate", 0.0, "--learning-rate is 0; it must be greater than 0, or nothing is learned."),
    ("learning_rate", 1001, "--learning-rate is 1001; it must be at most 1000."),
    ("gate_learning_rate", 0, "--gate-learning-rate is 0; it must be greater than 0, or nothing is learned."),
    ("l0_weight", -0.001, "--l0-weight is -0.001; it must be at least 0."),
    ("l0_weight", 10**7, "--l0-weight is 10000000; it must be at most 1000000."),
    ("l0_weight", 10**400, "--l0-weight has more than 15 digits; give a smaller number."),
    ("warmup_ratio", 1.01, "--warmup-ratio is 1.01; it must be at most 1."),
    ("weight_decay", -1, "--weight-decay is -1; it must be at least 0."),
    ("max_grad_norm", -1.0, "--max-grad-norm is -1.0; it must be at least 0."),
    ("patience", -1, "--patience is -1; it must be at least 0."),
    ("seed", -1, "--seed is -1; it must be at least 0."),
    ("seed", 2**32, "--seed is 4294967296; it must be at most 4294967295."),
    ("record_every", 0, "--record-every is 0; it must be at least 1."),
    ("l0_weight", float("nan"), "--l0-weight is nan; it must be a finite number."),
    ("max_grad_norm", float("inf"), "--max-grad-norm is inf; it must be a finite number."),
    ("epochs", 2.5, "--epochs is 2.5; it must be of type int."),
    ("epochs", True, "--epochs is True; it must be of type int."),
    ("learning_rate", "fast", "--learning-rate is 'fast'; it must be of type float."),
    ("learning_rate", True, "--learning-rate is True; it must be of type float."),
    ("task", None, "--task is None; it must be of type str."),
    ("revision", 3, "--revision is 3; it must be of type str."),
    ("revision", "../../x", "--revision is '../../x'; it must be a branch, tag or commit"),
    ("revision", "", "--revision is ''; it must be a branch, tag or commit"),
    ("dtype", "float64", "--dtype is 'float64'; choose one of auto, float32, bfloat16, float16."),
    ("sites", ["heads"], "--sites is ['heads']; choose one of heads, mlp, both."),
    ("gates", None, "--gates is None; choose one of two, shared, none."),
    ("operation", "Both", "--operation is 'Both'; choose one of both, offset, scale."),
    ("l0_schedule", "cosine", "choose one of constant, late, linear, cyclic, performance, exponential."),
    ("layers", "x", "--layers is 'x'; write 'all' or ranges such as '0-5,8'."),
    ("heads", "3", "--heads is '3'; write 'all' or layer:head pairs such as '3:0,3:7'."),
]


@pytest.mark.parametrize(("name", "value", "sentence"), REFUSED, ids=lambda v: str(v)[:24])
def test_each_bound_has_its_sentence(name: str, value: Any, sentence: str) -> None:
    group = next(group for group in GROUPS if name in getattr(RunConfig(), group).__dict__)
    for check in (lambda: build({name: value}).validate(), lambda: RunConfig.from_dict({group: {name: value}})):
        with pytest.raises(InputError) as error:
            check()
        assert sentence in str(error.value)


@pytest.mark.parametrize("name", ["train_size", "validation_size", "test_size", "l0_weight", "patience", "seed"])
def test_zero_is_allowed_where_it_means_something(name: str) -> None:
    assert build({name: 0}).validate()[name] == 0


def test_a_whole_number_does_for_a_float() -> None:
    assert RunConfig.from_dict({"training": {"l0_weight": 1}}).training.l0_weight == 1


def test_heads_cannot_be_picked_where_there_are_none() -> None:
    with pytest.raises(InputError, match="--heads picks attention heads, but --sites is mlp"):
        RunConfig(edits=EditConfig(sites="mlp", heads="0:1")).validate()


def test_the_reference_objective_needs_a_gate_for_each_half() -> None:
    config = RunConfig(edits=EditConfig(gates="shared"), training=TrainingConfig(objective="reference"))
    with pytest.raises(InputError, match="--gates is shared; use --objective paper"):
        config.validate()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"optimizer": {}}, "Unknown group of settings optimizer; known are model, edits, data, training."),
        ({"training": {"lr": 1}}, "Unknown setting lr in training; known are epochs, batch_size"),
        ({"edits": {"epochs": 3}}, "Unknown setting epochs in edits"),
        ({"model": None}, "The settings in model are None; they must be an object"),
        ({"data": ["task"]}, "they must be an object of names and values."),
        ([], "Settings must be an object with the groups model, edits, data, training"),
        (None, "Settings must be an object with the groups"),
    ],
)
def test_what_is_no_configuration_is_refused(values: Any, sentence: str) -> None:
    with pytest.raises(InputError) as error:
        RunConfig.from_dict(values)
    assert sentence in str(error.value)


class TestFromFile:
    def test_reads_the_configuration_of_a_run(self, tmp_path: Path) -> None:
        config = build({"task": "trec", "epochs": 3})
        path = tmp_path / "config.json"
        path.write_text(json.dumps(config.to_dict() | {"versions": {"torch": "2"}, "geometry": {}}))
        assert RunConfig.from_file(path) == config

    @pytest.mark.parametrize(
        "content",
        [b"{", b"", b'{"model": \xff}', b"[1]", b'"text"', b"[" * 100_000, b'{"training": {"seed": ' + b"9" * 9999],
        ids=["broken", "empty", "no UTF-8", "a list", "a text", "deep", "endless number"],
    )
    def test_refuses_what_is_none(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "config.json"
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"Cannot read the settings in .*config\.json"):
            RunConfig.from_file(path)

    def test_refuses_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"Cannot read the settings in .*nothing\.json"):
            RunConfig.from_file(tmp_path / "nothing.json")


class TestLayers:
    @pytest.mark.parametrize(
        ("text", "layers"),
        [
            ("all", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
            (" all ", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
            ("0", [0]),
            ("0-2,8", [0, 1, 2, 8]),
            ("8, 0-2", [0, 1, 2, 8]),
            ("3-3", [3]),
            ("1-4,3-5,4", [1, 2, 3, 4, 5]),
            ("9", [9]),
        ],
    )
    def test_names_layers(self, text: str, layers: list[int]) -> None:
        assert parse_layers(text, 10) == layers

    @given(st.sets(st.integers(0, 40), min_size=1))
    def test_reads_any_set(self, layers: set[int]) -> None:
        assert parse_layers(",".join(map(str, layers)), 41) == sorted(layers)

    @pytest.mark.parametrize(
        "text",
        ["", ",", "1,", "-", "1-", "-1", "1--2", "a", "1.0", "0x1", "²", "٣", "5-3", "0-2,5-3", "9" * 5000, "0-999999"],
    )
    def test_refuses_the_rest(self, text: str) -> None:
        with pytest.raises(InputError, match="write 'all' or ranges such as '0-5,8'"):
            parse_layers(text, None)

    def test_knows_the_model(self) -> None:
        with pytest.raises(InputError, match=r"--layers names layer 10, but the model has layers 0 to 9\."):
            parse_layers("3-10", 10)
        assert parse_layers("3-10", None) == list(range(3, 11))


class TestHeads:
    @pytest.mark.parametrize(
        ("text", "pairs"),
        [
            ("all", None),
            ("3:0", [(3, 0)]),
            ("3:7,3:0, 0:1", [(0, 1), (3, 0), (3, 7)]),
            ("1:1,1:1", [(1, 1)]),
        ],
    )
    def test_names_heads(self, text: str, pairs: list[tuple[int, int]] | None) -> None:
        assert parse_heads(text, 4, 8) == pairs

    @given(st.sets(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1))
    def test_reads_any_set(self, pairs: set[tuple[int, int]]) -> None:
        assert parse_heads(",".join(f"{layer}:{head}" for layer, head in pairs), 41, 41) == sorted(pairs)

    @pytest.mark.parametrize("text", ["", ",", "3", "3:", ":3", "3:0:1", "3-0", "a:b", "²:1", "1:²", "1:" + "9" * 5000])
    def test_refuses_the_rest(self, text: str) -> None:
        with pytest.raises(InputError, match="write 'all' or layer:head pairs such as '3:0,3:7'"):
            parse_heads(text, None, None)

    @pytest.mark.parametrize("text", ["4:0", "0:8", "0:0,9:9"])
    def test_knows_the_model(self, text: str) -> None:
        with pytest.raises(InputError, match=r"--heads names \d:\d, but the model has 4 layers of 8 heads"):
            parse_heads(text, 4, 8)
        assert isinstance(parse_heads(text, None, None), list)
