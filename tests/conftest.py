"""Fixtures of all tests: a home folder per test, tiny models, and the default model where a test requests it."""

import gc
import os
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

# huggingface_hub reads this variable when it is imported.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import httpx
import torch
from hypothesis import HealthCheck, settings
from transformers import PreTrainedTokenizerFast

from jola.config import EditConfig
from jola.jola_model import JoLAModel
from jola.system.paths import HOME_VARIABLE, cache_home
from tests import ROOT
from tests.tiny import make_model, make_tokenizer

# By default httpx, and gradio_client with it, wait 5 seconds for an answer, which a busy machine may exceed.
vars(httpx._config.DEFAULT_TIMEOUT_CONFIG).update(vars(httpx.Timeout(120)))

# Other load on the machine must not make a test of random examples fail.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

SHARED_CACHE = cache_home()
"""The user's cache of downloaded assets, the only place outside their own folders where tests may write."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--examples", type=int, default=5, help="random examples of each attack in tests/soak")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Import and collect tests without garbage collection, because modules and tests contain hardly any garbage.

    ``gc.freeze`` excludes these objects from later collections too; every training ends with a full one.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the markers
def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Run tests that share a fixture of their file in one worker, so that the fixture is built once."""
    for item in items:
        if item.get_closest_marker("xdist_group"):
            continue
        fixtures = item._fixtureinfo.name2fixturedefs  # pytest has no public access to them
        if any(definitions[-1].scope == "module" for definitions in fixtures.values()):
            item.add_marker(pytest.mark.xdist_group(str(item.path.relative_to(ROOT))))


@pytest.fixture(scope="session")
def examples(pytestconfig: pytest.Config) -> int:
    """The number of random examples of each attack in tests/soak; `make soak` uses more."""
    return pytestconfig.getoption("--examples")


@pytest.fixture(scope="session", autouse=True)
def temporary(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Put temporary files, including those of processes that tests kill, into a folder that pytest removes."""
    os.environ["TMPDIR"] = str(tmp_path_factory.mktemp("tmp"))
    tempfile.tempdir = None  # it was already read from the environment


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder for runs and assets, only for this test."""
    folder = tmp_path / "home"
    monkeypatch.setenv(HOME_VARIABLE, str(folder))
    torch.set_num_threads(1)
    return folder


@pytest.fixture
def default_assets(home: Path) -> Path:
    """The home folder of this test with the default model and data, which are downloaded once for all tests."""
    home.mkdir(parents=True, exist_ok=True)
    SHARED_CACHE.mkdir(parents=True, exist_ok=True)
    (home / "cache").symlink_to(SHARED_CACHE, target_is_directory=True)
    from jola.data import assets

    for name in (assets.DEFAULT_MODEL, "movie-reviews"):
        assets.ensure(name, progress=False)
    return home


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A tiny tokenizer with a chat template."""
    return make_tokenizer()


@pytest.fixture
def tiny(tokenizer: PreTrainedTokenizerFast) -> Callable[..., JoLAModel]:
    """Factory of tiny edited models: ``tiny("llama")``, ``tiny("qwen3", EditConfig(sites="both"))``."""

    def make(architecture: str = "llama", edits: EditConfig | None = None, *, trained: bool = True) -> JoLAModel:
        model = JoLAModel(make_model(architecture), tokenizer, edits, name=f"tiny-{architecture}")
        if trained:
            spread_edits(model)
        return model.eval()

    return make


@pytest.fixture
def tiny_folder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Iterator[Path]:
    """The folder of a saved tiny Llama, for commands that load a model by name."""
    folder = tmp_path / "tiny-llama"
    make_model("llama").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    yield folder


def spread_edits(model: JoLAModel, seed: int = 1) -> None:
    """Set edits and gates to values as after training: clear effects, some gates closed and some fully open."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for edits in model.gated_edits():
            for parameter in edits.edit_parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
            for parameter in edits.gate_parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 3)
