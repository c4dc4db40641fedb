"""Threats in SECURITY.md: adapters, names, paths and data of others."""

import io
import json
import os
import stat
import zipfile
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save

from jola.adapters.directory import CONFIG_NAME, WEIGHTS_NAME
from jola.errors import InputError
from jola.runs.archive import import_archive
from jola.system.paths import is_there
from jola.system.spreadsheet import csv_text
from tests.workbench.served import Served
from workbench.runs import tab as runs
from workbench.service.bench import keep_upload
from workbench.service.exports import FORMS, Exported, Exports
from workbench.settings import Limits

# The two apps are started once, in one worker.
pytestmark = pytest.mark.xdist_group("security")


HEADER_LIMIT = 1 << 20


class TestAdapters:
    """The author of an adapter controls every byte of it."""

    @staticmethod
    def packed(files: dict[str, bytes], mode: int = stat.S_IFREG | 0o644) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                info = zipfile.ZipInfo(name)
                info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
                archive.writestr(info, content)
        return buffer.getvalue()

    @pytest.mark.parametrize(
        "what",
        [
            "header", "missing", "extra", "shape", "nan", "key", "large", "climbing", "absolute", "link", "bomb",
            "pickle", "encrypted name",
        ],
    )  # fmt: skip
    def test_what_is_not_right_is_refused_in_one_sentence(self, app: Served, tmp_path: Path, what: str) -> None:
        adapter = app.bench.store.get("one").adapter_dir
        files = {name: (adapter / name).read_bytes() for name in (CONFIG_NAME, WEIGHTS_NAME)}
        tensors, mode = load_file(adapter / WEIGHTS_NAME), stat.S_IFREG | 0o644
        first = next(iter(tensors))
        if what == "header":
            files[WEIGHTS_NAME] = (HEADER_LIMIT + 1).to_bytes(8, "little") + b"{}"
        elif what == "missing":
            del tensors[first]
        elif what == "extra":
            tensors["heads.more"] = torch.zeros(1)
        elif what == "shape":
            tensors[first] = tensors[first][:, :1].contiguous()
        elif what == "nan":
            tensors[first][0] = float("nan")
        elif what == "key":
            files[CONFIG_NAME] = json.dumps({**json.loads(files[CONFIG_NAME]), "auto_map": "x.y"}).encode()
        elif what == "large":
            files[CONFIG_NAME] += b" " * (1 << 20)
        elif what == "climbing":
            files["../evil.py"] = b"1"
        elif what == "absolute":
            files["/evil.py"] = b"1"
        elif what == "link":
            mode = stat.S_IFLNK | 0o777
        elif what == "bomb":
            files["README.md"] = b"\0" * (1 << 26)
        elif what == "pickle":
            files["adapter_model.bin"] = b"\x80\x04."
        elif what == "encrypted name":
            files["a\\b"] = b"1"
        if what in ("missing", "extra", "shape", "nan"):
            files[WEIGHTS_NAME] = save(tensors)
        file = tmp_path / "gift.zip"
        file.write_bytes(self.packed(files, mode))
        before = sorted(path.name for path in app.bench.store.root.iterdir())
        said = runs.take_in(app.bench.store, str(file))
        assert said["kind"] == "error" and said["words"].endswith(".") and "\n" not in said["words"]
        assert str(tmp_path) not in said["words"] and str(app.bench.store.root) not in said["words"]
        assert sorted(path.name for path in app.bench.store.root.iterdir()) == before

    def test_the_untouched_one_is_taken(self, app: Served, tmp_path: Path) -> None:
        adapter = app.bench.store.get("one").adapter_dir
        file = tmp_path / "gift.zip"
        file.write_bytes(self.packed({n: (adapter / n).read_bytes() for n in (CONFIG_NAME, WEIGHTS_NAME)}))
        said = runs.take_in(app.bench.store, str(file))
        assert said["kind"] != "error", said
        app.bench.store.remove(said["chosen"])


class TestNames:
    """Names of runs, which come from the browser."""

    @pytest.mark.parametrize("name", ["../one", "/etc", ".", "..", ".trash", "one/adapter", "one\0", "link", "a" * 300])
    def test_a_name_never_leads_out_of_the_store(
        self, app: Served, tmp_path_factory: pytest.TempPathFactory, name: str
    ) -> None:
        store, outside = app.bench.store, tmp_path_factory.getbasetemp() / "outside"
        outside.mkdir(exist_ok=True)
        (outside / "config.json").write_text("{}")
        link = store.root / "link"
        if not link.is_symlink():
            link.symlink_to(outside, target_is_directory=True)
        assert app.bench.find(name) is None
        for refuse in (store.remove, store.restore, app.bench.jobs.cancel, app.bench.jobs.resume):
            with pytest.raises(InputError):
                refuse(name)
        assert "link" not in [run.id for run in store.list()]
        assert (outside / "config.json").exists()

    def test_a_label_is_data(self, app: Served) -> None:
        runs.annotate(app.bench, "one", "../../etc", "")
        run = app.bench.store.get("one")
        assert run.notes().label == "../../etc" and run.path.name == "one"
        *_, exported = Exports(app.bench.settings).export("page", run, FORMS["Whole run"])
        assert isinstance(exported, Exported) and exported.place.parent.name.startswith("jola-export-")

    def test_the_id_of_a_new_run_is_made_here(self, app: Served) -> None:
        id = app.bench.store.new_id("../../<b>")
        assert set(id) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
        (app.bench.store.root / id / "status.json").unlink()
        (app.bench.store.root / id).rmdir()


class TestPaths:
    """Paths for Import and Export, which may be any text."""

    @pytest.mark.parametrize("path", ["~nobodyx/x", "x" * 5000, "/" + "x" * 5000, "/" + "x/" * 3000, "\0", "/\0"])
    def test_a_text_that_is_no_path_is_one_sentence(self, app: Served, exposed: Served, path: str) -> None:
        for served in (app, exposed):
            exports, run = Exports(served.bench.settings), served.bench.store.get("one")
            with pytest.raises(InputError, match=r"no folder|not allowed for this page") as raised:
                list(exports.export("page", run, FORMS["Whole run"], folder=path))
            assert len(str(raised.value)) < 500
        with pytest.raises(InputError, match="no file or folder") as raised:
            import_archive(Path(os.path.expanduser(path)), app.bench.store)
        assert len(str(raised.value)) < 500
        assert not is_there(path)


class TestData:
    """Uploaded data files."""

    LIMITS = Limits(upload_bytes=10_000, upload_examples=20, upload_characters=500)

    @staticmethod
    def rows(count: int, size: int = 5) -> list[dict[str, str]]:
        return [{"prompt": f"{n} " + "x" * size, "completion": "good"} for n in range(count)]

    @pytest.mark.parametrize(("count", "size", "words"), [(21, 5, "at most 20"), (3, 600, "at most 500")])
    def test_rows_and_characters_have_a_limit(self, tmp_path: Path, count: int, size: int, words: str) -> None:
        file = tmp_path / "rows.jsonl"
        file.write_text("\n".join(map(json.dumps, self.rows(count, size))))
        with pytest.raises(InputError, match=words):
            keep_upload(file, self.LIMITS)
        assert keep_upload(file)[1] == count

    def test_a_small_file_that_unpacks_to_a_large_one_is_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "rows.parquet"
        pq.write_table(pa.Table.from_pylist(self.rows(20, 100_000)), file, use_dictionary=False, compression="zstd")
        assert file.stat().st_size < self.LIMITS.upload_bytes
        with pytest.raises(InputError, match="unpacks to more than"):
            keep_upload(file, self.LIMITS)
        assert keep_upload(file)[1] == 20

    def test_bytes_have_a_limit(self, app: Served) -> None:
        limit = app.bench.settings.limits.upload_bytes
        files = {"files": ("large.jsonl", b" " * (limit + 1))}
        answer = httpx.post(f"{app.address}/gradio_api/upload", files=files, timeout=300)
        assert answer.status_code == 413

    def test_only_utf8_is_read(self, tmp_path: Path) -> None:
        file = tmp_path / "latin.csv"
        file.write_bytes("prompt,completion\né,b\n".encode("latin-1"))
        with pytest.raises(InputError, match="UTF-8"):
            keep_upload(file)

    def test_a_formula_is_a_text_in_what_is_exported(self) -> None:
        assert csv_text([["=HYPERLINK(1)", "+1", "-1", "@x", -1.5]]) == "'=HYPERLINK(1),'+1,'-1,'@x,-1.5\n"
