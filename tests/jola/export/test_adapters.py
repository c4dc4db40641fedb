"""Adapters for sharing: compact, zipped, pushed and fetched, and their README."""

import json
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError
from PIL import Image
from safetensors.torch import load_file

from jola.adapters import hub as adapter_hub
from jola.adapters.directory import load_edits, read_adapter
from jola.config import DataConfig, EditConfig, RunConfig
from jola.edits.intervention import EditMask
from jola.export import compact, export_adapter, export_ia3, push_to_hub, run_facts, run_results
from jola.jola_model import JoLAModel
from jola.runs.archive import import_archive
from jola.runs.run import Run
from jola.runs.store import RunStore
from tests.conftest import spread_edits
from tests.jola.export.edited_models import logits, refusal

EXACT = 1e-5
VARIANTS = {
    "the method": EditConfig(),
    "both sites": EditConfig(sites="both", gate_threshold=0.3),
    "a shared gate": EditConfig(sites="mlp", gates="shared", layers="0,2"),
    "no gate": EditConfig(gates="none", operation="scale", heads="0:1,2:3"),
}


def on(folder: Path, edits: EditConfig | None = None) -> JoLAModel:
    model = JoLAModel.from_pretrained(str(folder), edits=edits, dtype="float32", device="cpu")
    spread_edits(model)
    return model


class TestCompact:
    @pytest.mark.parametrize("ending", ["", ".zip"])
    @pytest.mark.parametrize("name", VARIANTS)
    def test_computes_the_same_to_the_bit(self, tiny_folder: Path, tmp_path: Path, name: str, ending: str) -> None:
        model = on(tiny_folder, VARIANTS[name])
        report = export_adapter(model.save_pretrained(tmp_path / "whole"), tmp_path / f"small{ending}")
        small = tmp_path / f"small{ending}"
        loaded = JoLAModel.from_adapter(small, model=str(tiny_folder), dtype="float32", device="cpu")
        assert torch.equal(logits(loaded), logits(model))
        assert loaded.edit_config == model.edit_config
        for before, after in zip(model.gated_edits(), loaded.gated_edits(), strict=True):
            assert torch.equal(before.states(), after.states())
        on_now = sum(int((g > 0).sum()) for e in model.gated_edits() for g in e.gate_values().values())
        assert report.kept == on_now <= report.total

    def test_holds_nothing_of_what_is_closed(self, tiny_folder: Path, tmp_path: Path) -> None:
        model = on(tiny_folder)
        for gate in model.edits.gate_parameters():
            gate.data[::2] -= 9.0
        export_adapter(model.save_pretrained(tmp_path / "whole"), tmp_path / "small")
        tensors = read_adapter(tmp_path / "small").tensors
        for half, gate in model.edits.gate_values().items():
            vectors = tensors[f"heads.{half}"]
            assert not vectors[gate == 0].any() and bool((gate == 0).any())
            assert torch.equal(vectors[gate > 0], model.edits.get_parameter(half)[gate > 0])

    @pytest.mark.parametrize("ending", ["", ".zip"])
    def test_is_smaller_and_says_how_many_bytes_it_is(self, tiny_folder: Path, tmp_path: Path, ending: str) -> None:
        model = on(tiny_folder)
        for gate in model.edits.gate_parameters():
            gate.data[1:] = -9.0
        whole = model.save_pretrained(tmp_path / "whole")
        small = export_adapter(whole, tmp_path / f"small{ending}")
        full = export_adapter(whole, tmp_path / f"full{ending}", compact=False)
        place = tmp_path / f"small{ending}"
        files = [place] if ending else list(place.iterdir())
        assert small.bytes == sum(p.stat().st_size for p in files) < full.bytes
        assert small.bytes_before == sum(p.stat().st_size for p in whole.iterdir())
        assert f"{small.bytes:,} bytes ({small.bytes_before:,} before)" in small.describe()
        assert torch.equal(read_adapter(whole).tensors["heads.offset"], model.edits.get_parameter("offset"))

    def test_has_the_vectors_of_open_gates_alone(self, tiny_folder: Path, tmp_path: Path) -> None:
        model = on(tiny_folder)
        model.save_pretrained(tmp_path / "small", compact=True)
        tensors = load_file(tmp_path / "small" / "adapter_model.safetensors")
        for half, gate in model.edits.gate_values().items():
            units = gate.flatten().nonzero().flatten()
            assert tensors[f"heads.{half}.units"].tolist() == units.tolist()
            assert torch.equal(tensors[f"heads.{half}"], model.edits.get_parameter(half).flatten(0, 1)[units])
        again = export_adapter(tmp_path / "small", tmp_path / "again", compact=False)
        assert again.kept == sum(len(tensors[f"heads.{half}.units"]) for half in ("offset", "scale"))
        assert load_file(tmp_path / "again" / "adapter_model.safetensors")["heads.offset"].shape == (3, 4, 8)
        assert "compact" not in json.loads((tmp_path / "again" / "adapter_config.json").read_text())

    def test_names_no_folder_of_this_machine(self, tiny_folder: Path, tmp_path: Path) -> None:
        whole = on(tiny_folder).save_pretrained(tmp_path / "whole")
        assert str(tmp_path) in (whole / "adapter_config.json").read_text()
        export_adapter(whole, tmp_path / "small")
        export_adapter(whole, tmp_path / "small.zip")
        with zipfile.ZipFile(tmp_path / "small.zip") as archive:
            contents = [archive.read(name) for name in archive.namelist()]
        for content in [*contents, *(p.read_bytes() for p in (tmp_path / "small").iterdir())]:
            assert str(tmp_path).encode() not in content

    def test_equal_adapters_give_equal_files(self, tiny_folder: Path, tmp_path: Path) -> None:
        whole = on(tiny_folder).save_pretrained(tmp_path / "whole")
        for name in ("a.zip", "b.zip"):
            export_adapter(whole, tmp_path / name)
        assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()

    def test_masks_and_strength_are_worked_in(self, tiny_folder: Path, tmp_path: Path) -> None:
        model = on(tiny_folder, EditConfig(sites="both"))
        generator = torch.Generator().manual_seed(3)
        mask = {"heads": EditMask(*((torch.rand(3, 4, generator=generator) * 2).round() for _ in range(2)))}
        whole = model.save_pretrained(tmp_path / "whole")
        report = export_adapter(whole, tmp_path / "a.zip", mask=mask, strength=0.5)
        loaded = JoLAModel.from_adapter(tmp_path / "a.zip", model=str(tiny_folder), dtype="float32")
        assert (logits(loaded) - logits(model, mask=mask, strength=0.5)).abs().max() <= EXACT
        assert report.kept < export_adapter(whole, tmp_path / "b.zip").kept

    def test_all_closed_can_be_read_again(self, tiny_folder: Path, tmp_path: Path) -> None:
        # Zeros compress a thousandfold, and careful readers refuse such files.
        model = on(tiny_folder)
        for gate in model.edits.gate_parameters():
            gate.data.fill_(-9.0)
        export_adapter(model.save_pretrained(tmp_path / "whole"), tmp_path / "a.zip")
        with zipfile.ZipFile(tmp_path / "a.zip") as archive:
            names = ["adapter_config.json", "adapter_model.safetensors", "README.md", "heads.png"]
            assert archive.namelist() == names
        with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
            compact._add(archive, "zeros", bytes(4 << 20))
        assert archive.getinfo("zeros").compress_type == zipfile.ZIP_STORED
        loaded = JoLAModel.from_adapter(tmp_path / "a.zip", model=str(tiny_folder), dtype="float32")
        assert torch.equal(logits(loaded), logits(model, strength=0.0))

    def test_is_imported_as_a_run(self, tiny_folder: Path, tmp_path: Path) -> None:
        model = on(tiny_folder)
        export_adapter(model.save_pretrained(tmp_path / "whole"), tmp_path / "a.zip")
        run = import_archive(tmp_path / "a.zip", RunStore(tmp_path / "runs"))
        with model.using(load_edits(run.adapter_dir, model)):
            found = logits(model)
        assert torch.equal(found, logits(model))

    def test_zips_that_are_not_adapters_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "text.zip").write_text("no zip file")
        with zipfile.ZipFile(tmp_path / "escape.zip", "w") as archive:
            archive.writestr("../adapter_config.json", "{}")
        for name, says in (
            ("text.zip", "not a zip file"),
            ("escape.zip", "unsafe name"),
            ("none.zip", "is not an adapter directory"),
        ):
            assert says in refusal(lambda n=name: JoLAModel.from_adapter(tmp_path / n))


class Unreachable(Exception):
    """The error that an HTTP library raises without a network."""


class Hub:
    """A Hub that records calls and has at most one repository."""

    def __init__(self, repository: Path | None = None, token: str = "secret-token") -> None:
        self.calls: list[Any] = []
        self.repository, self.token = repository, token
        self.sizes: dict[str, int] = {}
        self.offline = False

    def create_repo(self, repo: str, **arguments: Any) -> None:
        self.calls.append(("create", repo, arguments))

    def upload_folder(self, *, repo_id: str, folder_path: Path, **arguments: Any) -> str:
        if repo_id == "me/unreachable":
            raise Unreachable("no route")
        if repo_id == "me/refused":
            raise OSError(f"403 for token {self.token}\nand a long story")
        self.calls.append(("upload", {p.name: p.read_bytes() for p in Path(folder_path).iterdir()}))
        return f"https://hub.example/{repo_id}"

    def model_info(self, repo: str, *, revision: str | None, files_metadata: bool) -> Any:
        if self.offline:
            raise Unreachable("no network")
        self.calls.append(("info", repo, revision))
        if repo == "me/absent" or self.repository is None:
            raise RepositoryNotFoundError(
                "404 Client Error.\nRepository Not Found",
                response=httpx.Response(404, request=httpx.Request("GET", "https://hub.example")),
            )
        sizes = {p.name: p.stat().st_size for p in self.repository.iterdir()} | self.sizes
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=n, size=s) for n, s in sizes.items()])

    def snapshot_download(self, repo: str, **arguments: Any) -> str:
        self.calls.append(("fetch", repo, arguments))
        if arguments.get("local_files_only") and self.repository is None:
            raise LocalEntryNotFoundError("nothing in the cache")
        return str(self.repository)


class TestFromTheHub:
    """Requests to the Hub, and checks of its responses."""

    @pytest.fixture
    def hub(self, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
        export_adapter(on(tiny_folder).save_pretrained(tmp_path / "whole"), tmp_path / "repository")
        hub = Hub(tmp_path / "repository")
        monkeypatch.setattr(adapter_hub, "HfApi", lambda: hub)
        return hub

    def test_is_the_same_as_from_a_folder(self, hub: Hub, tiny_folder: Path, tmp_path: Path) -> None:
        loaded = JoLAModel.from_adapter("me/edits", revision="v1", model=str(tiny_folder), dtype="float32")
        assert torch.equal(logits(loaded), logits(on(tiny_folder)))
        assert hub.calls[0] == ("info", "me/edits", "v1")
        assert hub.calls[1][2]["revision"] == "v1"
        assert set(hub.calls[1][2]["allow_patterns"]) == {
            "adapter_config.json", "jola_adapter.json", "adapter_model.safetensors", "README.md", "heads.png",
        }  # fmt: skip
        export_ia3("me/edits", tmp_path / "ia3")

    def test_a_folder_of_that_name_comes_first(
        self, hub: Hub, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        on(tiny_folder).save_pretrained("me/edits")
        JoLAModel.from_adapter("me/edits", dtype="float32")
        assert hub.calls == []

    def test_without_a_network_what_was_fetched_is_taken(self, hub: Hub, tiny_folder: Path) -> None:
        hub.offline = True
        JoLAModel.from_adapter("me/edits", model=str(tiny_folder), dtype="float32")
        assert hub.calls[-1][2]["local_files_only"]
        hub.repository = None
        assert "could not be downloaded from the Hub (nothing in the cache)" in refusal(
            lambda: JoLAModel.from_adapter("me/edits")
        )

    def test_what_is_no_adapter_or_too_large_is_not_fetched(self, hub: Hub, tmp_path: Path) -> None:
        assert "no folder or file me/absent, and the" in refusal(lambda: JoLAModel.from_adapter("me/absent"))
        hub.sizes = {"adapter_model.safetensors": 1 << 40}
        assert "exceeds the size limit" in refusal(lambda: JoLAModel.from_adapter("me/edits"))
        hub.sizes = {}
        (tmp_path / "repository" / "adapter_model.safetensors").unlink()
        assert "is not an adapter: adapter_config" in refusal(lambda: JoLAModel.from_adapter("me/edits"))
        assert not any(call[0] == "fetch" for call in hub.calls)


class TestPush:
    """Uploads, with a Hub that only records them."""

    @pytest.fixture
    def hub(self, monkeypatch: pytest.MonkeyPatch) -> Hub:
        monkeypatch.setenv("HF_TOKEN", "secret-token")
        return Hub()

    def test_sends_the_folder(self, tiny_folder: Path, tmp_path: Path, hub: Hub) -> None:
        export_adapter(on(tiny_folder).save_pretrained(tmp_path / "whole"), tmp_path / "small")
        assert push_to_hub(tmp_path / "small", "me/edits", api=hub) == "https://hub.example/me/edits"
        assert hub.calls[0] == ("create", "me/edits", {"private": True, "exist_ok": True})
        assert hub.calls[1][1] == {p.name: p.read_bytes() for p in (tmp_path / "small").iterdir()}
        assert not any(b"secret-token" in p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())

    def test_of_a_model_comes_back_the_same(self, tiny_folder: Path, tmp_path: Path, hub: Hub) -> None:
        model = on(tiny_folder)
        assert model.push_to_hub("me/edits", private=False, api=hub) == "https://hub.example/me/edits"
        assert hub.calls[0] == ("create", "me/edits", {"private": False, "exist_ok": True})
        (tmp_path / "came").mkdir()
        for name, data in hub.calls[1][1].items():
            (tmp_path / "came" / name).write_bytes(data)
            assert str(tmp_path).encode() not in data
        loaded = JoLAModel.from_adapter(tmp_path / "came", model=str(tiny_folder), dtype="float32")
        assert torch.equal(logits(loaded), logits(model))

    def test_the_token_comes_from_the_environment(
        self, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        export_adapter(on(tiny_folder).save_pretrained(tmp_path / "whole"), tmp_path / "small")
        made: list[Hub] = []
        monkeypatch.setattr("jola.export.hub.HfApi", lambda token: made.append(Hub(token=token)) or made[0])
        monkeypatch.setenv("HF_TOKEN", "another")
        push_to_hub(tmp_path / "small", "me/edits")
        assert made[0].token == "another"
        monkeypatch.delenv("HF_TOKEN")
        assert "HF_TOKEN is not set" in refusal(lambda: push_to_hub(tmp_path / "small", "me/edits"))

    def test_refuses(self, tiny_folder: Path, tmp_path: Path, hub: Any) -> None:
        whole = on(tiny_folder).save_pretrained(tmp_path / "whole")
        assert "names a folder of this computer" in refusal(lambda: push_to_hub(whole, "me/edits", api=hub))
        assert "neither an adapter nor a model" in refusal(lambda: push_to_hub(tmp_path, "me/edits", api=hub))
        export_adapter(whole, tmp_path / "small")
        for name in ("a b//c", "edits", "../../x/y"):
            assert "not a valid repository name" in refusal(lambda n=name: push_to_hub(tmp_path / "small", n, api=hub))
        message = refusal(lambda: push_to_hub(tmp_path / "small", "me/refused", api=hub))
        assert "403" in message and "secret-token" not in message and "***" in message
        assert "(no route)" in refusal(lambda: push_to_hub(tmp_path / "small", "me/unreachable", api=hub))
        (tmp_path / "small" / "adapter_config.json").write_text("[")
        assert "cannot be read as JSON" in refusal(lambda: push_to_hub(tmp_path / "small", "me/edits", api=hub))
        assert not any(call[0] == "upload" for call in hub.calls)


class TestCard:
    """The README that strangers read first."""

    @pytest.fixture
    def run(self, tmp_path: Path) -> Run:
        config = RunConfig(data=DataConfig(task="/home/somebody/reviews.csv"), edits=EditConfig())
        extra = {
            "task": {"name": "reviews", "n_train": 200, "n_validation": 100, "n_test": 500, "fingerprint": "abc123"},
            "versions": {"torch": "2.13", "transformers": "5.24"},
        }
        run = Run.create(tmp_path / "run", config, extra)
        accuracy = {"accuracy": 0.878, "n": 500, "low": 0.846, "high": 0.904}
        run.write_result(
            {"test": accuracy, "test_options": accuracy | {"accuracy": 0.9}, "steps": 300, "kept_step": 150}
        )
        return run

    def test_is_filled_by_the_run(self, run: Run, tiny_folder: Path, tmp_path: Path) -> None:
        model = on(tiny_folder)
        model.name, model.revision = "owner/model", "abc123f"
        whole = model.save_pretrained(tmp_path / "whole")
        export_adapter(whole, tmp_path / "out", facts=run_facts(run), results=run_results(run))
        text = (tmp_path / "out" / "README.md").read_text()
        for part in (
            "* Base model: owner/model, revision abc123f",
            "* Data: reviews (fingerprint abc123), 200 training, 100 validation, 500 test examples",
            "* Test accuracy, exact match: 0.878 (n = 500, 95 % interval 0.846–0.904)",
            "* Test accuracy, choosing among the options: 0.900 (n = 500",
            "* Edits kept: step 150 of 300",
            "seed 42",
            "torch 2.13, transformers 5.24",
            "![Map of the edits, layers from bottom to top](heads.png)",
            'JoLAModel.from_adapter("path/to/this/folder")',
            "## Limits",
        ):
            assert part in text, part
        assert "somebody" not in text and str(tmp_path) not in text
        card = ModelCard.load(tmp_path / "out" / "README.md")
        assert card.data.base_model == "owner/model" and card.data.tags == ["jola", "activation-editing"]
        assert [r.metric_value for r in card.data.eval_results or ()] == [0.878, 0.9]
        assert (card.data.eval_results or [])[0].dataset_name == "reviews"

    def test_the_picture_shows_what_is_open(self, tiny_folder: Path, tmp_path: Path) -> None:
        model = on(tiny_folder, EditConfig(sites="both"))
        folder = model.save_pretrained(tmp_path / "whole")
        picture = Image.open(folder / "heads.png").convert("RGB")
        wanted = {
            colour: sum(int((e.states() == code).sum()) for e in model.gated_edits())
            for code, colour in enumerate(((205, 213, 222), (0, 114, 178), (213, 94, 0), (29, 39, 51)))
        }
        counts = {colour: n for n, colour in picture.getcolors(1 << 16) or []}
        for colour, units in wanted.items():
            assert counts[colour] == pytest.approx(units * 17 * 17 + 12 * 12, abs=units), colour

    def test_a_strangers_text_stays_on_its_line(self, run: Run, tiny_folder: Path, tmp_path: Path) -> None:
        whole = on(tiny_folder).save_pretrained(tmp_path / "whole", {"Task": "x\n---\n# Another title"})
        text = (whole / "README.md").read_text()
        assert "* Task: x --- # Another title" in text and "\n# Another title" not in text

    def test_changed_edits_get_a_card_of_their_own(self, tiny_folder: Path, tmp_path: Path) -> None:
        model = on(tiny_folder)
        whole = model.save_pretrained(tmp_path / "whole", {"Task": "reviews"})
        export_adapter(whole, tmp_path / "same")
        assert (tmp_path / "same" / "README.md").read_bytes() == (whole / "README.md").read_bytes()
        export_adapter(whole, tmp_path / "less", mask=EditMask.none(model.edits))
        text = (tmp_path / "less" / "README.md").read_text()
        assert "heads: 12 none, 0 offset, 0 scale, 0 both" in text and "Modified edits" in text
