"""Runs as zip files: exported runs can be imported again and contain nothing private, and bad archives are refused."""

import io
import json
import random
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save, save_file

from jola.adapters.directory import CONFIG_NAME, WEIGHTS_NAME, read_adapter
from jola.config import DataConfig, EditConfig, ModelConfig, RunConfig, TrainingConfig
from jola.edits.masks import HeadMask, SavedMasks
from jola.errors import InputError
from jola.jola_model import JoLAModel
from jola.runs import archive as run_archive
from jola.runs.archive import export_archive, import_archive
from jola.runs.history import GATE_FIELDS
from jola.runs.run import Run
from jola.runs.store import RunStore
from jola.system.files import append_whole

Make = Callable[..., JoLAModel]
Files = dict[str, bytes]

LAYERS, HEADS = 3, 4
HOME = "/home/somebody/models"
TEST = {"accuracy": 0.75, "n": 8, "low": 0.41, "high": 0.93}
FUZZED = 400


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "runs")


@pytest.fixture
def run(tiny: Make, tmp_path: Path) -> Run:
    """A finished run with all optional parts, of a model in a user's home folder."""
    config = RunConfig(
        ModelConfig(model=f"{HOME}/tiny-llama"),
        EditConfig(),
        DataConfig(task=f"{HOME}/reviews.jsonl"),
        TrainingConfig(output=str(tmp_path / "here" / "run"), seed=3, report_to="wandb"),
    )
    extra = {
        "task": {"name": "reviews", "n_train": 12, "labels": ["good", "bad"], "notes": [], "fingerprint": "ab12"},
        "versions": {"torch": "2.10", "accelerate": None},
        "parameters": {"trainable": 100, "frozen": 1000},
    }
    run = Run.create(tmp_path / "here" / "run", config, extra)
    rng = np.random.default_rng(0)
    with run.gate_writer("heads", LAYERS, HEADS) as writer:
        for step in (0, 5, 10):
            writer.append(step, {name: rng.random((LAYERS, HEADS), dtype=np.float32) for name in GATE_FIELDS})
    for step in (5, 10):
        run.append_metrics({"step": step, "time": 1e9 + step, "loss": 1.5 / step, "penalty": float("nan")})
    model = tiny("llama")
    model.name = f"{HOME}/tiny-llama"
    model.save_pretrained(run.adapter_dir, {"Test accuracy": "0.75"})
    run.write_result({"test": TEST, "closed": {"offset": 0.25, "scale": 0.5}, "seconds": 30.5, "kept_step": 5})
    run.annotate(label="The <b>first</b>", note="Good.")
    SavedMasks(run.path).save("halves", HeadMask.all(LAYERS, HEADS))
    run.write_status(state="finished", step=10, total_steps=10)
    (run.path / "log.txt").write_text(f"trained in {HOME}")
    (run.checkpoints_dir / "checkpoint-5").mkdir(parents=True)
    (run.checkpoints_dir / "checkpoint-5" / "weights").write_bytes(bytes(1000))
    return run


@pytest.fixture
def files(run: Run, tmp_path: Path) -> Files:
    """The files of the exported run."""
    with zipfile.ZipFile(export_archive(run, tmp_path / "exported.zip")) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(path: Path, files: Files, folder: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(folder + name, data)
    return path


def edited(files: Files, name: str, **changes: Any) -> Files:
    """Return the files with other values in one JSON file; None removes a value."""
    content = json.loads(files[name]) | changes
    return files | {name: json.dumps({k: v for k, v in content.items() if v is not None}).encode()}


def nothing_was_written(store: RunStore) -> bool:
    return not store.root.exists() or list(store.root.iterdir()) == []


class TestExport:
    def test_all_that_is_needed_and_nothing_else(self, files: Files) -> None:
        assert sorted(files) == [
            "adapter/README.md",
            f"adapter/{CONFIG_NAME}",
            f"adapter/{WEIGHTS_NAME}",
            "adapter/heads.png",
            "archive.json",
            "config.json",
            "gates/heads.f32",
            "gates/heads.json",
            "masks.json",
            "metrics.jsonl",
            "notes.json",
            "result.json",
        ]

    def test_nothing_tells_where_it_was_trained(self, files: Files, tmp_path: Path) -> None:
        for name, content in files.items():
            for private in (HOME, "somebody", str(tmp_path), "pid", "wandb", "log.txt"):
                assert private.encode() not in content, (name, private)
        assert json.loads(files["config.json"])["model"]["model"] == "tiny-llama"
        assert json.loads(files[f"adapter/{CONFIG_NAME}"])["base_model_name_or_path"] == "tiny-llama"

    def test_a_folder_gets_the_id_of_the_run(self, run: Run, tmp_path: Path) -> None:
        assert export_archive(run, tmp_path) == tmp_path / "run.zip"
        with pytest.raises(InputError, match="already exists; choose another name"):
            export_archive(run, tmp_path)

    def test_equal_runs_give_equal_files(self, run: Run, tmp_path: Path) -> None:
        one, two = (export_archive(run, tmp_path / name).read_bytes() for name in ("1.zip", "2.zip"))
        assert one == two

    def test_a_run_without_an_adapter_is_refused_and_leaves_no_file(self, tmp_path: Path) -> None:
        run = Run.create(tmp_path / "busy", RunConfig())
        (tmp_path / "out").mkdir()
        with pytest.raises(InputError, match=r"has no adapter yet \(starting\)"):
            export_archive(run, tmp_path / "out" / "a.zip")
        assert list((tmp_path / "out").iterdir()) == []

    def test_a_folder_that_is_not_there(self, run: Run, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="There is no folder"):
            export_archive(run, tmp_path / "absent" / "a.zip")

    def test_a_device_map_of_another_computer_stays_there(self, run: Run, store: RunStore, tmp_path: Path) -> None:
        config = json.loads((run.path / "config.json").read_text())
        for given, kept in ((f"{HOME}/map.json", None), ("auto", "auto")):
            config["model"]["device_map"] = given
            (run.path / "config.json").write_text(json.dumps(config))
            archive = export_archive(run, tmp_path / f"{kept}.zip")
            assert HOME.encode() not in zipfile.ZipFile(archive).read("config.json")
            assert import_archive(archive, store).run_config().model.device_map == kept

    def test_gates_that_pack_very_well_can_be_read_again(self, run: Run, store: RunStore, tmp_path: Path) -> None:
        with run.gate_writer("heads", LAYERS, HEADS) as writer:
            for step in range(11, 5000):
                writer.append(step, dict.fromkeys(GATE_FIELDS, np.zeros((LAYERS, HEADS), dtype=np.float32)))
        assert (run.gates_dir / "heads.f32").stat().st_size > 1 << 20
        archive = export_archive(run, tmp_path / "a.zip")
        assert len(import_archive(archive, store).gates()) == len(run.gates())


class TestImport:
    def test_an_exported_run_is_the_same_run(self, run: Run, store: RunStore, tmp_path: Path) -> None:
        begun = time.time()
        back = import_archive(export_archive(run, tmp_path / "a.zip"), store)
        assert back.path.parent == store.root
        assert [found.id for found in store.list()] == [back.id]
        assert "-reviews-" in back.id
        for name, values in run.gates().fields.items():
            np.testing.assert_array_equal(back.gates().fields[name], values)
        assert back.metrics() == run.metrics()
        assert back.result() == run.result()
        assert back.notes() == run.notes()
        assert SavedMasks(back.path).get("halves") == HeadMask.all(LAYERS, HEADS)
        one, two = (load_file(found.adapter_dir / WEIGHTS_NAME) for found in (run, back))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)
        there, here = run.summary(), back.summary()
        same = (
            "label",
            "note",
            "method",
            "n_train",
            "seed",
            "accuracy",
            "score",
            "closed",
            "open",
            "seconds",
            "step",
            "created",
        )
        assert {name: there[name] for name in same} == {name: here[name] for name in same}
        assert (here["state"], here["imported"], there["imported"]) == ("finished", True, False)
        assert begun <= back.config()["imported"]["time"] <= time.time()
        assert back.config()["imported"]["run"] == "run"
        assert back.run_config().training.output == ""

    def test_the_edits_of_an_imported_run_can_be_used(
        self, tiny_folder: Path, tiny: Make, store: RunStore, tmp_path: Path
    ) -> None:
        ids = torch.tensor([[5, 17, 250, 9]])
        model = tiny("llama")
        expected = model(ids).logits
        folder = model.save_pretrained(tmp_path / "adapter")
        names = (CONFIG_NAME, WEIGHTS_NAME, "README.md")
        archive = zipped(tmp_path / "a.zip", {name: (folder / name).read_bytes() for name in names})
        run = import_archive(archive, store)
        loaded = JoLAModel.from_adapter(run.adapter_dir, model=str(tiny_folder), dtype="float32", device="cpu")
        torch.testing.assert_close(loaded(ids).logits, expected)

    @pytest.mark.parametrize("folder", ["", "my-adapter/", "a/b/"])
    def test_an_adapter_alone(self, files: Files, store: RunStore, tmp_path: Path, folder: str) -> None:
        inner = {name.removeprefix("adapter/"): data for name, data in files.items() if name.startswith("adapter/")}
        run = import_archive(zipped(tmp_path / "gift.zip", inner, folder), store)
        summary = run.summary()
        assert (summary["state"], summary["imported"], summary["adapter"]) == ("finished", True, True)
        assert (summary["task"], summary["accuracy"], summary["model"]) == (None, None, "tiny-llama")
        assert run.config()["imported"]["from"] == "gift.zip"
        assert run.run_config().edits == EditConfig()
        assert run.sites() == [] and run.metrics() == []

    def test_an_exported_run_in_a_folder_of_the_zip_file(self, files: Files, store: RunStore, tmp_path: Path) -> None:
        run = import_archive(zipped(tmp_path / "a.zip", files, "from a friend/"), store)
        assert len(run.gates()) == 3 and run.notes().label == "The <b>first</b>"

    def test_a_folder_on_this_computer_keeps_the_place_of_its_model(
        self, run: Run, store: RunStore, tmp_path: Path
    ) -> None:
        for source in (run.adapter_dir, run.path):
            back = import_archive(source, store)
            assert read_adapter(back.adapter_dir).base_model == f"{HOME}/tiny-llama"
        assert back.run_config().model.model == f"{HOME}/tiny-llama"
        assert len(back.gates()) == 3
        assert sorted(path.name for path in back.path.iterdir()) == sorted(
            [
                "adapter",
                "config.json",
                "gates",
                "masks.json",
                "metrics.jsonl",
                "notes.json",
                "result.json",
                "status.json",
            ]
        )

    def test_an_id_can_be_given_once(self, run: Run, store: RunStore, tmp_path: Path) -> None:
        archive = export_archive(run, tmp_path / "a.zip")
        assert import_archive(archive, store, id="sample").path == store.root / "sample"
        for id in ("sample", "../x", ".hidden", ""):
            with pytest.raises(InputError, match="is not an id that a new run can have"):
                import_archive(archive, store, id=id)
        assert [path.name for path in store.root.iterdir()] == ["sample"]

    def test_twice_gives_two_runs(self, run: Run, store: RunStore, tmp_path: Path) -> None:
        archive = export_archive(run, tmp_path / "a.zip")
        assert len({import_archive(archive, store).id for _ in range(3)}) == len(store.list()) == 3

    def test_a_cancelled_run_stays_cancelled(self, run: Run, store: RunStore, tmp_path: Path) -> None:
        run.write_status(state="cancelled")
        assert import_archive(export_archive(run, tmp_path / "a.zip"), store).state == "cancelled"

    def test_a_record_that_was_being_written_is_left_out(self, run: Run, store: RunStore, tmp_path: Path) -> None:
        with open(run.gates_dir / "heads.f32", "ab") as file:
            append_whole(file.fileno(), b"\1" * 99, run.gates_dir)
        with open(run.path / "metrics.jsonl", "ab") as file:
            file.write(b'{"step": 11, "lo')
        back = import_archive(export_archive(run, tmp_path / "a.zip"), store)
        assert back.gates().steps.tolist() == [0, 5, 10]
        assert len(back.metrics()) == 2

    def test_a_full_disk_leaves_nothing(
        self, run: Run, store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: Any, **__: Any) -> None:
            raise OSError(28, "No space left on device")

        archive = export_archive(run, tmp_path / "a.zip")
        monkeypatch.setattr(run_archive, "json_bytes", full)
        with pytest.raises(InputError, match="no space left on the disk"):
            import_archive(archive, store)
        assert nothing_was_written(store)


def weights(files: Files, **changes: torch.Tensor) -> Files:
    """Return the files with other tensors."""
    from safetensors.torch import load

    tensors = load(files[f"adapter/{WEIGHTS_NAME}"]) | {name.replace("__", "."): t for name, t in changes.items()}
    return files | {f"adapter/{WEIGHTS_NAME}": save(tensors)}


def history(files: Files, change: Callable[[np.ndarray], None]) -> Files:
    """Return the files with gates changed by `change`, which gets (records, floats); the first float is the step."""
    values = np.frombuffer(files["gates/heads.f32"], dtype="<f4").reshape(3, -1).copy()
    change(values)
    return files | {"gates/heads.f32": values.tobytes()}


def put(row: int, column: int, value: float) -> Callable[[np.ndarray], None]:
    def change(values: np.ndarray) -> None:
        values[row, column] = value

    return change


CONFIG, WEIGHTS = f"adapter/{CONFIG_NAME}", f"adapter/{WEIGHTS_NAME}"
LONG = random.Random(0).randbytes(1 << 20).hex()
BAD: dict[str, tuple[Callable[[Files], Files], str]] = {
    "no adapter": (lambda f: {k: v for k, v in f.items() if k != CONFIG}, f"contains no {CONFIG_NAME}"),
    "two adapters": (lambda f: f | {CONFIG_NAME: f[CONFIG]}, f"more than one {CONFIG_NAME}"),
    "no weights": (lambda f: {k: v for k, v in f.items() if k != WEIGHTS}, f"it has no {WEIGHTS_NAME}"),
    "a pickle": (lambda f: f | {"adapter/adapter_model.bin": b"\x80\x04."}, "is not part of an adapter or a run"),
    "a program": (lambda f: f | {"run.py": b"print()"}, "'run.py', which is not part"),
    "a hidden file": (lambda f: f | {".env": b"x"}, "'.env', which is not part"),
    "a checkpoint": (lambda f: f | {"checkpoints/checkpoint-1/x": b"x"}, "which is not part"),
    "a status": (lambda f: f | {"status.json": b"{}"}, "'status.json', which is not part"),
    "gates with a bad name": (lambda f: f | {"gates/../x.f32": b""}, "invalid or unsafe name"),
    "a site that is not edited": (lambda f: f | {"gates/mlp.json": f["gates/heads.json"]}, "does not edit"),
    "gates alone": (lambda f: f | {"gates/mlp.f32": b"1234"}, "has no matching .json file"),
    "another schema": (lambda f: edited(f, CONFIG, schema_version=99), "format version 99"),
    "another kind of adapter": (lambda f: edited(f, CONFIG, peft_type="LORA"), "type LORA, not one of JoLA Workbench"),
    "a geometry of gigabytes": (
        lambda f: edited(f, CONFIG, geometry=json.loads(f[CONFIG])["geometry"] | {"head_dim": 10**12}),
        "smaller than its configuration says",
    ),
    "a large configuration": (lambda f: edited(f, CONFIG, note=LONG), "exceeds the size limit"),
    "a large header": (lambda f: f | {WEIGHTS: struct.pack("<Q", 1 << 21) + bytes(5000)}, "header is too large"),
    "a huge header": (lambda f: f | {WEIGHTS: struct.pack("<Q", 2**63) + bytes(5000)}, "header is too large"),
    "no tensors": (lambda f: f | {WEIGHTS: bytes(5000)}, "not a readable safetensors file"),
    "not a number": (
        lambda f: weights(f, heads__offset=torch.full((LAYERS, HEADS, 8), float("nan"))),
        "not finite",
    ),
    "infinity": (lambda f: weights(f, heads__scale=torch.full((LAYERS, HEADS, 8), float("inf"))), "not finite"),
    "another shape": (lambda f: weights(f, heads__offset=torch.zeros(LAYERS, HEADS, 9)), "has shape"),
    "a tensor too many": (lambda f: weights(f, more=torch.zeros(2)), "does not describe"),
    "a broken configuration": (lambda f: f | {"config.json": b'{"model": '}, "is not valid JSON"),
    "a list": (lambda f: f | {"config.json": b"[1, 2]"}, "does not contain a JSON object"),
    "a deep file": (lambda f: f | {"result.json": b'{"a": ' + b"[" * 100_000 + b"}"}, "is not valid JSON"),
    "a nested file": (
        lambda f: f | {"result.json": b'{"a": ' + b"[" * 50 + b"]" * 50 + b"}"},
        "is nested more than 12 levels deep",
    ),
    "an unknown setting": (lambda f: edited(f, "config.json", training={"run_as": "root"}), "Unknown setting run_as"),
    "a setting of another type": (lambda f: edited(f, "config.json", training={"epochs": "8"}), "must be of type int"),
    "a revision": (
        lambda f: edited(f, "config.json", model={"model": "a/b", "revision": "../../x"}),
        "--revision is '../../x'; it must be a branch, tag or commit",
    ),
    "a newer archive": (lambda f: edited(f, "archive.json", version=2), "update jola-workbench"),
    "an accuracy without n": (
        lambda f: edited(f, "result.json", test={"accuracy": 0.9, "low": 0.8, "high": 1.0}),
        "test.n is missing",
    ),
    "an accuracy in words": (
        lambda f: edited(f, "result.json", test="100 %"),
        "test is '100 %'; it should be an object",
    ),
    "closed gates": (
        lambda f: edited(f, "result.json", closed={"offset": "<b>"}),
        "closed.offset is '<b>'; it should be a valid number",
    ),
    "seconds": (lambda f: edited(f, "result.json", seconds="soon"), "seconds is 'soon'; it should be a valid number"),
    "metrics in words": (lambda f: f | {"metrics.jsonl": b'{"step": 1, "loss": "<script>"}\n'}, "damaged in line 1"),
    "half a line": (lambda f: f | {"metrics.jsonl": f["metrics.jsonl"] + b'{"step": 1'}, "damaged in line 3"),
    "steps that go back": (lambda f: f | {"metrics.jsonl": b'{"step": 2}\n{"step": 1}\n'}, "invalid step in line 2"),
    "a metric of a thousand digits": (
        lambda f: f | {"metrics.jsonl": b'{"step": 1, "loss": ' + b"9" * 1000 + b"}\n"},
        "damaged in line 1",
    ),
    "gates of another model": (lambda f: edited(f, "gates/heads.json", units=5), "does not fit the adapter"),
    "gates of gigabytes": (
        lambda f: edited(f, "gates/heads.json", layers=10**15),
        "layers is 1000000000000000; it should be less",
    ),
    "other fields": (lambda f: edited(f, "gates/heads.json", fields=["a"]), "no field is a norm"),
    "a gate above 1": (lambda f: history(f, put(1, 1, 1.5)), "an invalid offset_gate"),
    "a gate below 0": (lambda f: history(f, put(2, 3, -0.1)), "an invalid offset_gate"),
    "an infinite norm": (lambda f: history(f, put(2, -1, np.inf)), "an invalid scale_norm"),
    "a step that goes back": (lambda f: history(f, put(2, 0, 4)), "has invalid steps"),
    "a step that is no number": (lambda f: history(f, put(1, 0, np.nan)), "has invalid steps"),
    "damaged masks": (lambda f: f | {"masks.json": b'{"version": 1, "masks": [3]}'}, "is damaged"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_not_right_is_one_sentence_and_nothing_is_written(
    files: Files, store: RunStore, tmp_path: Path, what: str
) -> None:
    change, words = BAD[what]
    archive = zipped(tmp_path / "gift.zip", change(files))
    with pytest.raises(InputError, match=words) as caught:
        import_archive(archive, store)
    assert "gift.zip" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert nothing_was_written(store)


@pytest.mark.parametrize(
    ("name", "becomes"),
    [
        ("default", "default"),
        ("owner/model-1.5", "owner/model-1.5"),
        ("/etc/passwd", "passwd"),
        ("../../secrets", "secrets"),
        ("~/models/a", "a"),
        ("C:\\models\\a", "a"),
        ("a/b/c", "c"),
    ],
)
def test_a_stranger_s_name_of_a_model_is_no_path(
    files: Files, store: RunStore, tmp_path: Path, name: str, becomes: str
) -> None:
    files = edited(edited(files, "config.json", model={"model": name}), CONFIG, base_model_name_or_path=name)
    run = import_archive(zipped(tmp_path / "a.zip", files), store)
    assert run.run_config().model.model == becomes
    assert read_adapter(run.adapter_dir).base_model == becomes


def test_what_is_unknown_in_an_archive_is_left_out(files: Files, store: RunStore, tmp_path: Path) -> None:
    task = {"name": "<b>x</b>", "n_train": -5, "labels": ["a", 3], "evil": {"a": 1}}
    files = edited(files, "config.json", task=task, evil=[1], created=4e9, geometry={"num_layers": 99})
    files = edited(files, "archive.json", step="x", total_steps=-1, created="now", state="training", pid=1)
    files = edited(files, "notes.json", label="a\u202eb" * 100, note=7)
    run = import_archive(zipped(tmp_path / "a.zip", files), store)
    config = run.config()
    assert config["task"] == {"name": "b>"}
    assert "evil" not in config
    assert config["geometry"]["num_layers"] == LAYERS
    assert run.state == "finished"
    assert run.status()["step"] == run.status()["total_steps"] == 10
    assert run.created <= time.time()
    assert run.notes().label == ("ab" * 100)[:80] and run.notes().note == ""


@pytest.mark.parametrize("what", ["a link", "a directory", "a large file"])
def test_what_stands_in_a_folder_in_place_of_a_file(run: Run, store: RunStore, tmp_path: Path, what: str) -> None:
    place = run.adapter_dir / WEIGHTS_NAME
    place.unlink()
    if what == "a link":
        place.symlink_to(tmp_path / "absent")
    elif what == "a directory":
        place.mkdir()
    else:
        with open(place, "wb") as file:
            file.truncate(257 << 20)
    with pytest.raises(InputError):
        import_archive(run.adapter_dir, store)
    assert nothing_was_written(store)


@pytest.mark.parametrize("name", ["text.zip", "absent.zip", "empty"])
def test_what_is_no_archive(store: RunStore, tmp_path: Path, name: str) -> None:
    (tmp_path / "text.zip").write_text("a text")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError):
        import_archive(tmp_path / name, store)
    assert nothing_was_written(store)


def test_bytes_that_were_changed_are_noticed_or_harmless(run: Run, tmp_path: Path) -> None:
    """Change an archive at random, or a file in an archive whose checksums are then correct."""
    whole = export_archive(run, tmp_path / "a.zip").read_bytes()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    generator = random.Random(7)
    refused = 0
    for number in range(FUZZED):
        store, file = RunStore(tmp_path / "runs" / str(number)), tmp_path / "fuzzed.zip"
        if number % 2:
            file.write_bytes(mutated(whole, generator))
        else:
            name = generator.choice(sorted(files))
            zipped(file, files | {name: mutated(files[name], generator)})
        try:
            back = import_archive(file, store)
        except InputError as error:
            refused += 1
            assert "\n" not in str(error).strip()
            assert nothing_was_written(store)
        else:
            summary = back.summary()
            assert summary["state"] in ("finished", "cancelled") and summary["adapter"]
            read_adapter(back.adapter_dir)
            back.run_config()
    assert FUZZED / 4 < refused < FUZZED


def mutated(data: bytes, generator: random.Random) -> bytes:
    """Return the data with a few bits flipped, or with a piece removed or repeated."""
    content = bytearray(data)
    kind = generator.randrange(4)
    at = generator.randrange(len(content))
    if kind == 0:
        del content[at : at + generator.randrange(1, 64)]
    elif kind == 1:
        content[at:at] = content[at : at + generator.randrange(1, 64)]
    else:
        for _ in range(generator.randrange(1, 6)):
            content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    return bytes(content)


def test_a_saved_file_with_other_metadata_is_read(files: Files, store: RunStore, tmp_path: Path) -> None:
    tensors = load_file(_written(tmp_path / "w", files[WEIGHTS]))
    save_file(tensors, tmp_path / "other", metadata={"format": "pt", "note": "<script>"})
    run = import_archive(zipped(tmp_path / "a.zip", files | {WEIGHTS: (tmp_path / "other").read_bytes()}), store)
    assert read_adapter(run.adapter_dir).tensors.keys() == tensors.keys()


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
