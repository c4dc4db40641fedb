"""Without a network, code that needs the Hub reads the caches immediately."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
from huggingface_hub import constants, utils
from transformers import PretrainedConfig

from jola.data.tasks.hub import HubTable
from jola.data.tasks.sources import load_hub
from jola.errors import InputError
from jola.model.loading import load_tokenizer
from jola.system.hub import hub_or_cache


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Requests to a Hub that does not answer."""
    asked: list[str] = []

    def head(address: str, **options: Any) -> None:
        asked.append(address)
        raise ConnectionError("no route to the host")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(utils, "get_session", lambda: SimpleNamespace(head=head))
    return asked


def test_a_hub_that_does_not_answer_is_asked_once(requests: list[str]) -> None:
    with hub_or_cache("owner/name"):
        assert constants.HF_HUB_OFFLINE
        with hub_or_cache():
            assert constants.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE
    assert requests == [constants.ENDPOINT]


def test_it_is_asked_again_after_an_error(requests: list[str]) -> None:
    for _ in range(2):
        with pytest.raises(OSError, match="elsewhere"), hub_or_cache():
            raise OSError("elsewhere")
    assert len(requests) == 2 and not constants.HF_HUB_OFFLINE


def test_a_local_path_needs_no_hub(requests: list[str], tmp_path: Path) -> None:
    with hub_or_cache(str(tmp_path)):
        assert not constants.HF_HUB_OFFLINE
    assert requests == []


def test_a_hub_that_answers_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(utils, "get_session", lambda: SimpleNamespace(head=lambda *_, **__: None))
    with hub_or_cache("owner/name"):
        assert not constants.HF_HUB_OFFLINE


def test_datasets_and_models_are_read_within_it(requests: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def refuse(*arguments: Any, **named: Any) -> Any:
        seen.append(constants.HF_HUB_OFFLINE)
        raise ConnectionError("not in the cache")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    monkeypatch.setattr(PretrainedConfig, "get_config_dict", refuse)
    calls = [
        lambda: HubTable("owner/name").read(["train"], "boolq"),
        lambda: load_hub("hf:owner/name"),
        lambda: load_tokenizer("owner/name"),
    ]
    for call in calls:
        with pytest.raises(InputError, match="not in the cache"):
            call()
    assert seen == [True] * 3
