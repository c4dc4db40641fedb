"""``jola export``: every kind, with one JSON object or plain lines, and exit code 2 for what cannot be exported."""

import json
import stat
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from jola.config import RunConfig
from jola.edits.masks import HeadMask, SavedMasks
from jola.jola_model import JoLAModel
from jola.runs.run import Run
from jola.runs.store import RunStore
from tests.conftest import spread_edits
from tests.jola.cli.commands import Result
from tests.jola.export.edited_models import logits
from tests.tiny import make_model


@pytest.fixture
def jola(jola: Callable[..., Result]) -> Callable[..., Result]:
    """Run ``jola export …`` in this process."""
    return partial(jola, "export")


@pytest.fixture
def model(tiny_folder: Path) -> JoLAModel:
    model = JoLAModel.from_pretrained(str(tiny_folder), dtype="float32", device="cpu")
    spread_edits(model)
    return model


@pytest.fixture
def run(model: JoLAModel) -> Run:
    """A finished run with an adapter and two saved masks."""
    run = Run.create(RunStore().root / "20260101-000000-tiny-0000", RunConfig())
    model.save_pretrained(run.adapter_dir)
    masks = SavedMasks(run.path)
    masks.save("few", HeadMask.none(3, 4).switched([(1, 2), (2, 0)]))
    masks.save("other", HeadMask.all(3, 4))
    return run


FILES = {
    "adapter": ("out", ["adapter_config.json", "adapter_model.safetensors", "README.md", "heads.png"]),
    "ia3": ("out", ["adapter_config.json", "adapter_model.safetensors", "README.md"]),
    "standalone": ("out", ["jola_edits.py", "edits.safetensors"]),
    "merged": ("out", ["config.json", "model.safetensors", "generation_config.json", "tokenizer.json", "README.md"]),
    "gguf": ("out.gguf", None),
    "edits": ("out.csv", None),
}


class TestEveryKind:
    @pytest.mark.parametrize("kind", FILES)
    def test_of_a_run_an_adapter_and_a_zip(
        self, jola: Any, run: Run, tiny_folder: Path, tmp_path: Path, kind: str
    ) -> None:
        assert jola("adapter", run.id, tmp_path / "given.zip").code == 0
        name, files = FILES[kind]
        for number, source in enumerate((run.id, run.adapter_dir, tmp_path / "given.zip")):
            output = tmp_path / f"{number}" / name
            flags = ["--model", tiny_folder] if kind in ("merged", "gguf") else []
            done = jola(kind, source, output, "--json", *flags)
            assert done.code == 0, done.err
            assert isinstance(done.json, dict) and done.json["bytes"] > 0
            assert output.is_file() if files is None else {f for f in files if (output / f).is_file()} == set(files)
        output = tmp_path / "plain" / name
        words = jola(kind, run.id, output, *flags)
        assert (words.code == 0 and str(output) in words.out and "bytes" in words.out) or "MB" in words.out

    def test_merged_is_what_the_edited_model_computes(
        self, jola: Any, run: Run, model: JoLAModel, tmp_path: Path
    ) -> None:
        (tmp_path / "prompts.txt").write_text("one prompt\n\nanother prompt\n")
        done = jola("merged", run.id, tmp_path / "a", "--json", "--prompts", tmp_path / "prompts.txt")
        assert done.json["prompts"] == 2 and done.json["after_cast"]["largest"] <= 1e-5
        assert (logits(AutoModelForCausalLM.from_pretrained(tmp_path / "a")) - logits(model)).abs().max() <= 1e-5
        assert "Measuring" in done.err
        mask = SavedMasks(run.path).get("few").edit_mask()
        assert jola("merged", run.id, tmp_path / "b", "--mask", "few", "--strength", "0.5").code == 0
        found = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "b"))
        assert (found - logits(model, mask=mask, strength=0.5)).abs().max() <= 1e-5

    def test_edits_have_the_masks_of_the_run(self, jola: Any, run: Run, tmp_path: Path) -> None:
        done = jola("edits", run.id, tmp_path / "a.csv", "--json", "--mask", "few")
        assert done.json["masks"] == 2 and done.json["rows"] == 24 and done.json["open"] <= 4
        assert (tmp_path / "a.csv").read_text().splitlines()[0].endswith("mask few,mask other")

    def test_whole_is_larger_than_compact(self, jola: Any, run: Run, tmp_path: Path) -> None:
        tensors = run.adapter_dir / "adapter_model.safetensors"
        sizes = [jola("adapter", run.id, tmp_path / f"{f}.zip", "--json", *f).json["bytes"] for f in ((), ("--whole",))]
        assert sizes[0] < sizes[1] and tensors.is_file()

    def test_the_card_of_an_adapter_is_filled_by_its_run(self, jola: Any, run: Run, tmp_path: Path) -> None:
        run.write_result({"test": {"accuracy": 0.5, "n": 20, "low": 0.299, "high": 0.701}})
        assert jola("adapter", run.id, tmp_path / "a").code == 0
        text = (tmp_path / "a" / "README.md").read_text()
        assert "0.500 (n = 20, 95 % interval 0.299–0.701)" in text and "* Settings: sites heads" in text

    def test_push(self, jola: Any, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        sent: list[Any] = []

        class Hub:
            def __init__(self, token: str) -> None:
                self.token = token

            def create_repo(self, repo: str, **arguments: Any) -> None:
                sent.append((repo, arguments["private"]))

            def upload_folder(self, **arguments: Any) -> str:
                return f"https://hub.example/{arguments['repo_id']}"

        monkeypatch.setattr("jola.export.hub.HfApi", Hub)
        monkeypatch.setenv("HF_TOKEN", "secret")
        done = jola("adapter", run.id, tmp_path / "a", "--push", "me/edits", "--public")
        assert done.code == 0 and "https://hub.example/me/edits" in done.out and sent == [("me/edits", False)]
        assert jola("adapter", run.id, tmp_path / "b.zip", "--push", "me/edits").code == 2


def nan(folder: Path) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(tensors | {"heads.scale": tensors["heads.scale"] * torch.nan}, folder / "adapter_model.safetensors")


def more(folder: Path) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(tensors | {"heads.third": torch.ones(2)}, folder / "adapter_model.safetensors")


def unknown(folder: Path) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"alpha": 16}))


def header(folder: Path) -> None:
    size = 100 << 20
    with open(folder / "adapter_model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", size))
        file.truncate(size + 8)


def zipped(change: Callable[[zipfile.ZipFile], Any]) -> Callable[[Path], Path]:
    """Return a function that zips an adapter and changes the archive."""

    def make(folder: Path) -> Path:
        file = folder.with_suffix(".zip")
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(folder.iterdir()):
                archive.write(path, path.name)
            change(archive)
        return file

    return make


def link(archive: zipfile.ZipFile) -> None:
    info = zipfile.ZipInfo("heads.png.lnk")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(info, "/etc/passwd")


HOSTILE: dict[str, tuple[Callable[[Path], Path | None], str]] = {
    "not a number": (nan, "not finite"),
    "a tensor more": (more, "contains heads.third"),
    "a key more": (unknown, "contains 'alpha'"),
    "a header of 100 MB": (header, "header is too large"),
    "a way out": (zipped(lambda a: a.writestr("../out.py", "x")), "unsafe name"),
    "an absolute name": (zipped(lambda a: a.writestr("/tmp/out.py", "x")), "unsafe name"),
    "a link": (zipped(link), "a link"),
    "a bomb": (zipped(lambda a: a.writestr("bomb", bytes(64 << 20))), "times its size"),
    "a pickle": (zipped(lambda a: a.writestr("adapter_model.bin", b"\x80")), "not part of an adapter"),
}


class TestHostile:
    """Adapters from strangers: each kind of export fails with one sentence and exit code 2, and writes nothing."""

    @pytest.mark.parametrize("kind", FILES)
    @pytest.mark.parametrize("name", HOSTILE)
    def test_is_refused(self, jola: Any, model: JoLAModel, tmp_path: Path, name: str, kind: str) -> None:
        folder = model.save_pretrained(tmp_path / "given" / "adapter")
        make, says = HOSTILE[name]
        source = make(folder) or folder
        self.check(jola(kind, source, tmp_path / "out" / FILES[kind][0]), says, tmp_path)

    @pytest.mark.parametrize("kind", ["merged", "gguf"])
    def test_a_model_of_the_same_shape(self, jola: Any, run: Run, tokenizer: Any, tmp_path: Path, kind: str) -> None:
        make_model("llama", seed=3).save_pretrained(tmp_path / "given")
        tokenizer.save_pretrained(tmp_path / "given")
        done = jola(kind, run.id, tmp_path / "out" / FILES[kind][0], "--model", tmp_path / "given")
        self.check(done, "same shape but other weights", tmp_path)

    def check(self, done: Result, says: str, place: Path) -> None:
        assert done.code == 2 and not done.out and "Traceback" not in done.err
        message = done.err.strip().splitlines()[-1]
        assert message.startswith("error: ") and says in message
        assert {path.name for path in place.iterdir()} <= {"given", "home", "tiny-llama"}


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["merged", "nowhere", "{}/a"], "no run"),
            (["merged", "{run}", "{}/a", "--mask", "many"], "has no mask named 'many'; it has few, other"),
            (["merged", "{adapter}", "{}/full"], "already exists"),
            (["merged", "{run}", "{}/a", "--prompts", "{}/none.txt"], "cannot be read as UTF-8"),
            (["merged", "{run}", "{}/a", "--strength", "nan"], "must be a finite number"),
            (["merged", "{run}", "{}/a", "--device", "abacus"], "no device 'abacus'"),
            (["merged", "{run}", "{}/a", "--model", "{}/full"], "is not a model"),
            (["ia3", "{run}", "{}/a", "--strength", "0"], "No scale of these edits is open"),
            (["gguf", "{run}", "{}/a.bin"], "does not end in .gguf"),
            (["edits", "{run}", "{}/a.xlsx"], "neither .csv nor .json"),
            (["adapter", "{}/text.zip", "{}/a"], "not a zip file"),
            (["adapter", "{run}", "{}/a", "--push", "no name"], "not a valid repository name"),
            (["merged", "{run}", "{}/a", "--push", "me/edits"], "HF_TOKEN is not set"),
        ],
    )
    def test_bad_input(
        self, jola: Any, run: Run, tmp_path: Path, arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("HF_TOKEN", raising=False)
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "file").touch()
        (tmp_path / "text.zip").write_text("text")
        before = sorted(p.name for p in tmp_path.iterdir())
        places = {"{run}": run.id, "{adapter}": str(run.adapter_dir), "{}": str(tmp_path)}
        for sign, value in places.items():
            arguments = [a.replace(sign, value) for a in arguments]
        done = jola(*arguments)
        assert done.code == 2 and not done.out
        message = done.err.strip().splitlines()[-1]
        assert message.startswith("error: ") and says in message
        assert sorted(p.name for p in tmp_path.iterdir()) == before

    def test_a_format_that_loses_the_edits(self, jola: Any, run: Run, model: JoLAModel, tmp_path: Path) -> None:
        with torch.no_grad():
            model.edits.get_parameter("offset").zero_()
            model.edits.get_parameter("scale").mul_(1e-4)
        model.save_pretrained(run.adapter_dir)
        done = jola("merged", run.id, tmp_path / "a", "--dtype", "bfloat16")
        assert done.code == 2 and "loses" in done.err and not (tmp_path / "a").exists()
        with pytest.warns(UserWarning, match="loses"):
            done = jola("merged", run.id, tmp_path / "a", "--dtype", "bfloat16", "--allow-loss", "--json")
        assert done.code == 0 and "note: in bfloat16" in done.err and done.json["after_cast"]["lost"] > 0.1

    def test_a_kind_has_to_be_named(self, jola: Any) -> None:
        assert jola().code == 2

    @pytest.mark.parametrize("kind", FILES)
    def test_help_names_every_flag(self, jola: Any, kind: str) -> None:
        done = jola(kind, "--help")
        assert done.code == 0 and "--strength" in done.out and "--json" in done.out and "SOURCE" in done.out
