"""What all tests share: a home of their own, tiny models, and the default model where a test asks for it."""

import gc
import os
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

# huggingface_hub reads it when it is imported.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import PreTrainedTokenizerFast

from jola.config import EditConfig
from jola.jola_model import JoLAModel
from jola.system.paths import HOME_VARIABLE, cache_home
from tests import ROOT
from tests.tiny import make_model, make_tokenizer

SHARED_CACHE = cache_home()
"""Where fetched assets lie for this user: tests may fill and read it, and write nowhere else outside their folders."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--examples", type=int, default=5, help="random examples of each attack in tests/soak")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Import and collect tests without the garbage collector, which finds hardly anything among modules and tests.

    It skips them later too: every training ends with a full collection.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the markers
def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Tests that share a fixture of their file run in one worker, so that it is built once."""
    for item in items:
        if item.get_closest_marker("xdist_group"):
            continue
        fixtures = item._fixtureinfo.name2fixturedefs  # pytest has no public way to them
        if any(definitions[-1].scope == "module" for definitions in fixtures.values()):
            item.add_marker(pytest.mark.xdist_group(str(item.path.relative_to(ROOT))))


@pytest.fixture(scope="session")
def examples(pytestconfig: pytest.Config) -> int:
    """How many random examples each attack in tests/soak tries; `make soak` asks for more."""
    return pytestconfig.getoption("--examples")


@pytest.fixture(scope="session", autouse=True)
def temporary(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Temporary files, also those of processes that tests kill, are in a folder that pytest removes."""
    os.environ["TMPDIR"] = str(tmp_path_factory.mktemp("tmp"))
    tempfile.tempdir = None  # it was read from the environment already


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home for runs and assets, for this test alone."""
    folder = tmp_path / "home"
    monkeypatch.setenv(HOME_VARIABLE, str(folder))
    torch.set_num_threads(1)
    return folder


@pytest.fixture
def default_assets(home: Path) -> Path:
    """The home of this test with the default model and data in it, fetched once for all tests."""
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
    """A tiny Llama saved as a model folder, for commands that load by name."""
    folder = tmp_path / "tiny-llama"
    make_model("llama").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    yield folder


def spread_edits(model: JoLAModel, seed: int = 1) -> None:
    """Give edits and gates values as after training: large enough to matter, some gates closed, some fully open."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for edits in model.gated_edits():
            for parameter in edits.edit_parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
            for parameter in edits.gate_parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 3)
