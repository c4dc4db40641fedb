"""Fetching from a package index: finding, resuming, checking, and the settings of pip."""

import json
import os
import threading
from pathlib import Path

import pytest

from jola.data import assets, package_index
from jola.data.catalogue import Asset
from jola.data.package_index import PipSettings
from jola.errors import InputError
from jola.system.paths import cache_home
from tests.jola.data.package_server import CONTENT, FILENAME, RELEASE, WHEEL, Index, ensure, home_files, use


class TestFetching:
    @pytest.mark.parametrize("as_json", [True, False], ids=["json", "html"])
    def test_fetched_once_and_then_there_without_a_network(self, thing: Asset, index: Index, as_json: bool) -> None:
        index.json = as_json
        folder = ensure()
        assert (folder / "data.bin").read_bytes() == CONTENT
        assert (folder / "LICENSE").is_file()
        manifest = json.loads((folder / "asset.json").read_text())
        assert manifest["sha256"] == RELEASE.sha256
        assert {"name", "version", "licence", "project"} <= manifest.keys()
        assert home_files() == {folder.name}
        asked = list(index.requests)
        assert ensure() == folder
        assert index.requests == asked

    def test_a_broken_download_is_gone_on_with_in_the_same_call(self, thing: Asset, index: Index) -> None:
        index.cuts = [100_000, 200_000]
        assert (ensure() / "data.bin").read_bytes() == CONTENT
        assert index.downloads() == [None, "bytes=100000-", "bytes=300000-"]

    def test_a_broken_download_is_gone_on_with_by_the_next_call(
        self, thing: Asset, index: Index, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(package_index, "ATTEMPTS", 1)
        index.cuts = [500_000]
        with pytest.raises(InputError, match=r"interrupted the download.*0\.5 of 0\.6 MB are already downloaded"):
            ensure()
        assert home_files() == {f"{FILENAME}.part"}
        status = next(status for status in assets.status() if status.name == "thing")
        assert (status.ready, status.size) == (False, 500_000)
        ensure()
        assert index.downloads() == [None, "bytes=500000-"]

    def test_a_server_that_cannot_go_on_starts_again(self, thing: Asset, index: Index) -> None:
        index.ranges = False
        index.cuts = [100_000]
        assert (ensure() / "data.bin").read_bytes() == CONTENT

    @pytest.mark.parametrize("length", [1000, len(WHEEL), len(WHEEL) + 1])
    def test_the_beginning_of_another_file_is_thrown_away(self, thing: Asset, index: Index, length: int) -> None:
        (cache_home() / "assets").mkdir(parents=True)
        (cache_home() / "assets" / f"{FILENAME}.part").write_bytes(b"x" * length)
        assert (ensure() / "data.bin").read_bytes() == CONTENT

    @pytest.mark.parametrize("content", [WHEEL[:-1] + b"!", WHEEL + b"!", WHEEL[:1000]], ids=["other", "more", "less"])
    def test_another_file_under_the_name_is_refused(self, thing: Asset, index: Index, content: bytes) -> None:
        index.files[FILENAME] = content
        with pytest.raises(InputError, match="a wrong size or SHA-256"):
            ensure()
        assert home_files() == set()

    def test_without_a_network_the_sentence_says_what_to_do(
        self, thing: Asset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        use(monkeypatch, PipSettings(indexes=("http://127.0.0.1:9/simple",), timeout=1.0))
        with pytest.raises(InputError, match=r"127\.0\.0\.1 cannot be reached") as error:
            ensure()
        assert f"put the file into {cache_home() / 'assets'}" in str(error.value)
        (cache_home() / "assets" / FILENAME).write_bytes(WHEEL)
        assert (ensure() / "data.bin").read_bytes() == CONTENT

    def test_an_index_without_it(self, thing: Asset, index: Index) -> None:
        del index.files[FILENAME]
        with pytest.raises(InputError, match="no package index that pip is set up to use has it"):
            ensure()

    def test_the_next_place_is_asked_when_one_fails(
        self, thing: Asset, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / FILENAME).write_bytes(b"another file")
        places = ("http://127.0.0.1:9/simple", f"{index.url}/nothing-here", index.url)
        use(monkeypatch, PipSettings(indexes=places, find_links=(str(tmp_path), str(tmp_path / "missing"))))
        assert (ensure() / "data.bin").read_bytes() == CONTENT

    @pytest.mark.parametrize("as_url", [True, False])
    def test_a_find_links_folder_needs_no_index(
        self, thing: Asset, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_url: bool
    ) -> None:
        (tmp_path / "my wheels").mkdir()
        mine = tmp_path / "my wheels" / FILENAME
        mine.write_bytes(WHEEL)
        place = mine.parent.as_uri() if as_url else str(mine.parent)
        use(monkeypatch, PipSettings(indexes=(index.url,), find_links=(place,)))
        assert (ensure() / "data.bin").read_bytes() == CONTENT
        assert index.requests == []
        assert mine.read_bytes() == WHEEL

    def test_the_login_of_an_index_goes_to_its_host_alone(
        self, thing: Asset, index: Index, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        index.login = "me:se cret"
        place = index.url.replace("://", "://me:se%20cret@")
        use(monkeypatch, PipSettings(indexes=(place,)))
        ensure()
        assert all(login for _, _, login in index.requests)
        assets.remove("thing")
        other = Index()
        index.file_host = f"http://localhost:{other.server_port}"
        ensure()
        assert [login for _, _, login in other.requests] == [None]
        other.shutdown()
        other.server_close()

    def test_progress_is_told(self, thing: Asset, index: Index, capsys: pytest.CaptureFixture[str]) -> None:
        told: list[tuple[str, int, int]] = []
        assets.ensure("thing", progress=lambda *what: told.append(what))
        fetched = [done for what, done, total in told if what == "fetching" and total == len(WHEEL)]
        assert fetched == sorted(fetched) and fetched[-1] == len(WHEEL)
        assert told[-1] == ("preparing", 0, 0)
        assert capsys.readouterr() == ("", "")
        assets.remove("thing")
        assets.ensure("thing")
        printed = capsys.readouterr()
        assert printed.out == "" and "Some thing" in printed.err

    def test_two_at_once_fetch_one_copy(self, thing: Asset, index: Index) -> None:
        folders: list[Path] = []
        threads = [threading.Thread(target=lambda: folders.append(ensure())) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(folders) == 4 and len(set(folders)) == 1
        assert len(index.downloads()) == 1


class TestPipSettings:
    @pytest.fixture(autouse=True)
    def no_settings(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in list(os.environ):
            if name.startswith("PIP_") or name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
                monkeypatch.delenv(name)
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)

    def test_environment_and_file_count_as_for_pip(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        config = tmp_path / "pip.conf"
        config.write_text("[global]\nindex-url = https://file.example/simple\nproxy = proxy.example:80\n")
        monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://one.example/simple https://two.example/simple")
        monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))

        settings = PipSettings.read()
        assert settings.indexes == tuple(f"https://{name}.example/simple" for name in ("file", "one", "two"))
        assert settings.find_links == (str(tmp_path),)
        assert settings.proxy == "http://proxy.example:80"

        monkeypatch.setenv("PIP_INDEX_URL", "https://environment.example/simple")
        monkeypatch.setenv("PIP_CERT", "/mine.pem")
        settings = PipSettings.read()
        assert settings.indexes[0] == "https://environment.example/simple"
        assert settings.cert == "/mine.pem"

    def test_without_settings_there_is_one_index_and_with_no_index_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/some/bundle.pem")
        settings = PipSettings.read()
        assert len(settings.indexes) == 1
        assert (settings.find_links, settings.proxy, settings.cert) == ((), None, "/some/bundle.pem")
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        assert PipSettings.read().indexes == ()

    def test_settings_that_pip_refuses(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PIP_TIMEOUT", "soon")
        with pytest.raises(InputError, match="pip did not report which package index to use"):
            PipSettings.read()

    def test_a_python_without_pip(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "pip").mkdir()
        (tmp_path / "pip" / "__init__.py").write_text("")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        with pytest.raises(InputError, match="ensurepip"):
            PipSettings.read()

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            (PipSettings(indexes=(), cert="/no/such.pem"), "certificates"),
            (PipSettings(indexes=(), proxy="gopher://old.example"), "proxy"),
        ],
    )
    def test_settings_that_cannot_be_used(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: PipSettings, words: str
    ) -> None:
        use(monkeypatch, settings)
        with pytest.raises(InputError, match=words):
            package_index.fetch(RELEASE, tmp_path)
