"""The code that reproduces a run, read back by the command line and by Python."""

import shlex
from pathlib import Path
from typing import Any

import pytest

import jola
from jola.config import DataConfig, EditConfig, ModelConfig, RunConfig, TrainingConfig
from tests.workbench.recorded import Recorder
from workbench.train.reproduce import python_lines, reproduce, shell_command

CONFIGS = [
    RunConfig(),
    RunConfig(
        ModelConfig(model="/my models/it's $HOME; rm -rf"),
        EditConfig(layers="0,2", gate_start=-1.5),
        DataConfig(task='a "quoted"\nname'),
        TrainingConfig(epochs=3, l0_weight=1e-5),
    ),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_the_command_gives_the_settings_back(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    from jola.cli.main import main as cli

    seen: list[Any] = []

    def started(config: RunConfig, **_: Any) -> None:
        seen.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr("jola.training.restarts.run_training", started)
    program, command, *flags = shlex.split(shell_command(config))
    assert (program, command) == ("jola", "train")
    with pytest.raises(SystemExit):
        cli(["train", *flags])
    assert seen == [config]


@pytest.mark.parametrize("config", CONFIGS)
def test_the_lines_give_the_settings_back(config: RunConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[RunConfig] = []
    run = Recorder(tmp_path / "run", steps=2, layers=2, units=2).until(2).finish()
    monkeypatch.setattr(jola, "run_training", lambda config: seen.append(config) or run, raising=False)
    exec(python_lines(config), {})
    assert seen == [config]


def test_only_what_was_changed_is_named() -> None:
    assert shell_command(RunConfig()) == "jola train"
    assert "RunConfig()" in python_lines(RunConfig())
    config = RunConfig(training=TrainingConfig(epochs=3))
    assert shell_command(config) == "jola train --epochs 3"
    assert "'training': {'epochs': 3}" in python_lines(config) and "model" not in python_lines(config)


def test_the_records_of_every_site_are_read(tmp_path: Path) -> None:
    run = Recorder(tmp_path / "run", steps=2, layers=2, units=3).until(2).finish()
    for path in sorted(run.gates_dir.glob("heads.*")):
        (path.with_stem("mlp")).write_bytes(path.read_bytes())
        path.rename(path.with_stem("attention"))
    names: dict[str, Any] = {}
    exec(reproduce(run)["read"], names)
    assert len(names["gates_attention"]) == len(names["gates_mlp"]) == 3 * 2 * 3


def test_a_run_is_read_back_as_tables(tmp_path: Path) -> None:
    config = RunConfig(training=TrainingConfig(output=str(tmp_path / "it's")))
    run = Recorder(tmp_path / "it's", steps=4, layers=2, units=3, config=config).until(4).finish()
    code = reproduce(run)
    assert "output" not in code["shell"] + code["python"]
    names: dict[str, Any] = {}
    exec(code["read"], names)
    assert len(names["gates"]) == 5 * 2 * 3
    assert names["metrics"]["step"].max() == 4
