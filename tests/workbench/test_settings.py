"""Where the app listens, and which settings it refuses."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from jola.config import ModelConfig, RunConfig
from jola.errors import InputError
from workbench.settings import Settings


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_the_defaults_serve_this_computer_alone() -> None:
    settings = Settings().validate()
    assert settings.loopback
    assert settings.credentials is None
    assert settings.asks_token


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.3.2.1"])
def test_loopback_needs_no_password(host: str) -> None:
    assert Settings(host=host).validate().loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.20", "example.org"])
def test_any_other_address_needs_a_password(host: str) -> None:
    with pytest.raises(InputError, match=r"--auth"):
        Settings(host=host).validate()
    assert Settings(host=host, auth="ada:secret:x").validate().credentials == ("ada", "secret:x")


@pytest.mark.parametrize("auth", ["", "ada", "ada:", ":secret"])
def test_a_password_without_its_parts_is_refused(auth: str) -> None:
    with pytest.raises(InputError, match="user:password"):
        Settings(auth=auth).validate()


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_out_of_range_is_refused(port: int) -> None:
    with pytest.raises(InputError, match=str(port)):
        Settings(port=port).validate()


def test_a_taken_port_is_named(taken_port: int) -> None:
    with pytest.raises(InputError, match=f"Port {taken_port} .*--port"):
        Settings(port=taken_port).claim_port()


def test_port_0_takes_a_free_one() -> None:
    port = Settings(port=0).claim_port()
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))


def test_a_host_that_is_none_is_named() -> None:
    with pytest.raises(InputError, match=r"no\.such\.host\.invalid"):
        Settings(host="no.such.host.invalid", auth="a:b").claim_port()


def test_the_run_folder_follows_the_home_and_the_flag(home: Path, tmp_path: Path) -> None:
    assert Settings().runs_root == home.resolve() / "runs"
    assert Settings(runs=tmp_path / "mine").runs_root == (tmp_path / "mine").resolve()


def test_a_file_as_run_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        Settings(runs=tmp_path / "file").validate()


class TestPasswordOutsideTheCommandLine:
    def test_from_a_file(self, tmp_path: Path) -> None:
        file = tmp_path / "auth"
        file.write_text("ada:secret:x\nmore\n")
        file.chmod(0o600)
        settings = Settings(host="0.0.0.0", auth_file=file).validate()
        assert settings.credentials == ("ada", "secret:x") and not settings.asks_token
        with pytest.raises(InputError, match="use one of them"):
            Settings(auth="a:b", auth_file=file).validate()

    @pytest.mark.parametrize("content", [b"", b"\n", b"ada\n", b"ada:\n", b"\xff\xfe:x"])
    def test_a_file_without_a_password(self, tmp_path: Path, content: bytes) -> None:
        file = tmp_path / "auth"
        file.write_bytes(content)
        file.chmod(0o600)
        with pytest.raises(InputError, match="user:password"):
            Settings(auth_file=file).validate()

    def test_a_file_that_is_not_fit(self, tmp_path: Path) -> None:
        file = tmp_path / "auth"
        file.write_text("ada:secret")
        file.chmod(0o644)
        with pytest.raises(InputError, match="can be read by other users; run `chmod 600"):
            Settings(auth_file=file).validate()
        for place in (tmp_path / "absent", tmp_path):
            with pytest.raises(InputError, match="cannot be read"):
                Settings(auth_file=place).validate()

    def test_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("JOLA_AUTH", "ada:secret")
        assert Settings(host="0.0.0.0").validate().credentials == ("ada", "secret")
        assert Settings(auth="eve:other").validate().credentials == ("eve", "other")
        monkeypatch.setenv("JOLA_AUTH", "ada")
        with pytest.raises(InputError, match="user:password"):
            Settings().validate()


def test_a_page_of_others_may_name_only_device_maps_in_open_folders(tmp_path: Path) -> None:
    exposed, local = Settings(host="0.0.0.0", folders=(tmp_path / "open",)), Settings()
    (tmp_path / "open").mkdir()
    for name in ("open/map.json", "secrets.json"):
        (tmp_path / name).write_text("{}")
    for allowed in (None, "auto", str(tmp_path / "open" / "map.json")):
        exposed.check_sources(RunConfig(model=ModelConfig(device_map=allowed)))
    secret = RunConfig(model=ModelConfig(device_map=str(tmp_path / "secrets.json")))
    with pytest.raises(InputError, match=r"device map .* is not allowed"):
        exposed.check_sources(secret)
    local.check_sources(secret)


@pytest.mark.parametrize("path", ["~nosuchuser/x", "\ud800", "~\ud800", "\0", "~\0"])
def test_texts_that_are_no_path_are_not_open(path: str) -> None:
    with pytest.raises(InputError, match="not allowed"):
        Settings(host="0.0.0.0").check_path(path)
