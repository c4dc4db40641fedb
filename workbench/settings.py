"""Settings of the app: its address, its folders and its limits."""

import ipaddress
import os
import socket
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import tyro

from jola.config import RunConfig
from jola.data.catalogue import ASSETS
from jola.data.tasks.registry import REGISTRY
from jola.errors import InputError
from jola.settings import STRATEGIES
from jola.system.paths import is_there, runs_home

AUTH_VARIABLE = "JOLA_AUTH"
"""Environment variable with user:password."""
_AUTH_BYTES = 10_000


@dataclass(frozen=True)
class Limits:
    """What one request may ask for."""

    prompt_tokens: int = 1024
    """Tokens of a prompt, together with the answer whose probability is measured."""
    text_characters: int = 100_000
    """Characters of a prompt or an answer, counted before it is tokenized."""
    new_tokens: int = 256
    generation_seconds: float = 120.0
    remote_seconds: float = 300.0
    loaded_models: int = 2
    upload_bytes: int = 50 * 2**20
    upload_examples: int = 200_000
    upload_characters: int = 200_000
    """Characters of one uploaded example."""


@dataclass(frozen=True)
class Settings:
    """Serve the JoLA Workbench."""

    host: str = "127.0.0.1"
    """Address to listen on; addresses that other computers can reach require --auth."""
    port: int = 7860
    """Port to listen on; 0 chooses a free one."""
    runs: Path | None = None
    """Folder of the training runs; the default is the one that `jola runs` lists."""
    open_browser: bool = False
    """Open the page in the default browser."""
    auth: str | None = None
    """user:password that the page asks for. Other users of this computer see command lines; prefer --auth-file, or the
    environment variable JOLA_AUTH."""
    auth_file: Path | None = None
    """File with user:password in its first line, which only you can read."""
    token: bool = True
    """Require the token in the printed address; with --auth, the app asks for the password instead."""
    models: tuple[str, ...] = ()
    """Hub ids of models that are allowed in addition to the default model if other computers can reach the app."""
    folders: tuple[Path, ...] = ()
    """Folders whose models and data are allowed if other computers can reach the app."""
    limits: Annotated[Limits, tyro.conf.Suppress] = Limits()

    @property
    def runs_root(self) -> Path:
        """Folder of the training runs, absolute."""
        return (self.runs or runs_home()).expanduser().resolve()

    @property
    def comparisons_root(self) -> Path:
        """Folder of the comparisons, absolute: next to the default run folder, or inside the folder given with --runs.

        The app writes nothing outside a folder that the user names. Inside it, this folder is not listed as a run.
        """
        return self.runs_root / "comparisons" if self.runs else self.runs_root.parent / "comparisons"

    @property
    def studies_root(self) -> Path:
        """Folder of the studies, absolute; placed like `comparisons_root`."""
        return self.comparisons_root.with_name("studies")

    @property
    def loopback(self) -> bool:
        """Whether only this computer can reach the app."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def credentials(self) -> tuple[str, str] | None:
        """(user, password); None without a login."""
        given = self._given_auth
        if given is None:
            return None
        user, _, password = given.partition(":")
        return user, password

    @cached_property
    def _given_auth(self) -> str | None:
        """user:password from the command line, the file or the environment. Raises `InputError` for a bad file."""
        if self.auth is not None and self.auth_file is not None:
            raise InputError("--auth and --auth-file both give a password; use one of them.")
        if self.auth is not None:
            return self.auth
        return os.environ.get(AUTH_VARIABLE) if self.auth_file is None else _first_line(self.auth_file.expanduser())

    @property
    def asks_token(self) -> bool:
        """Whether requests must show the token."""
        return self.token and self.credentials is None

    def validate(self) -> "Settings":
        """Return self, or raise `InputError` naming the setting that cannot be used."""
        if not 0 <= self.port <= 65535:
            raise InputError(f"--port is {self.port}; it must be from 0 to 65535.")
        if self.credentials is not None and not all(self.credentials):
            raise InputError("--auth, like --auth-file and JOLA_AUTH, must be user:password, with neither part empty.")
        if not self.loopback and self.credentials is None:
            raise InputError(
                f"--host {self.host} lets other computers reach the app; "
                "protect it with --auth user:password, or leave out --host."
            )
        if self.runs_root.exists() and not self.runs_root.is_dir():
            raise InputError(f"--runs {self.runs_root} is a file; name a folder.")
        return self

    def check_sources(self, config: RunConfig, uploads: Path | None = None) -> None:
        """Raise `InputError` for a model or data that the page may not use.

        If only this computer reaches the app, everything is allowed, because its users can read the same files as the
        app. If other computers reach it, only the built-in models and tasks, uploads, and what --models and --folders
        name are allowed.
        """
        if self.loopback:
            return
        self.check_model(config.model.model, config.model.device_map)
        task = config.data.task
        if task not in REGISTRY and not self._inside(task, *([uploads] if uploads else [])):
            raise InputError(
                f"The data {task!r} are not allowed for this page; upload them, or start the app with --folders."
            )

    def check_model(self, model: str, device_map: str | None = None) -> None:
        """Raise `InputError` for a model or a device map file that the page may not use; see `check_sources`."""
        if self.loopback:
            return
        if model not in ("default", *ASSETS, *self.models) and not self._inside(model):
            raise InputError(
                f"The model {model[:200]!r} is not allowed for this page; start the app with --models or --folders to "
                "allow it."
            )
        if device_map and device_map not in STRATEGIES and not self._inside(device_map):
            raise InputError(
                f"The device map {device_map[:200]!r} is not allowed for this page; choose one of "
                f"{', '.join(STRATEGIES)}, or start the app with --folders."
            )

    def check_path(self, path: str) -> None:
        """Raise `InputError` for a file or folder that the page may not use; see `check_sources`."""
        if not self.loopback and not self._inside(path):
            raise InputError(
                f"The path {path[:200]!r} is not allowed for this page; upload a zip file, or start the app with "
                "--folders."
            )

    def _inside(self, path: str, *more: Path) -> bool:
        """Whether a path exists and is inside one of the allowed folders, after resolving links."""
        if not is_there(path):
            return False
        place = os.path.realpath(os.path.expanduser(path))
        roots = [os.path.realpath(os.path.expanduser(folder)) for folder in (*self.folders, *more)]
        return any(Path(place).is_relative_to(root) for root in roots)

    def claim_port(self) -> int:
        """Return the port to serve on, which is free now. Raises `InputError` if it is taken or not permitted."""
        try:
            info = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0]
        except socket.gaierror as error:
            raise InputError(f"--host {self.host} is not an address of this computer.") from error
        family, kind, protocol, _, address = info
        with socket.socket(family, kind, protocol) as probe:
            # Like the server, accept a port that an earlier connection has not fully released.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address)
            except PermissionError as error:
                raise InputError(
                    f"Port {self.port} needs rights that you do not have; choose one above 1023."
                ) from error
            except OSError as error:
                raise InputError(
                    f"Port {self.port} on {self.host} is in use, or the address does not belong to this computer; "
                    "choose another --port or --host."
                ) from error
            return probe.getsockname()[1]


def _first_line(file: Path) -> str:
    """Return the first line of a password file. Raises `InputError` if other users can read it or this one cannot."""
    try:
        with open(file, "rb") as opened:
            if os.name == "posix" and os.fstat(opened.fileno()).st_mode & 0o077:
                raise InputError(f"--auth-file {file} can be read by other users; run `chmod 600 {file}`.")
            lines = opened.read(_AUTH_BYTES).decode("utf-8").splitlines()
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InputError(
            f"--auth-file {file} cannot be read ({reason}); name a text file with user:password."
        ) from error
    return lines[0].strip() if lines else ""
