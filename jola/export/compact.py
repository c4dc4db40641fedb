"""Adapters to give away: as a folder or a zip file, whole or with nothing in it but what is open.

A compact adapter has the layout of any other, so that everything that reads adapters reads it. The vectors of halves
whose gates are closed, which nothing computes with, are zeros in it; a zip file makes nothing of them.
"""

import json
import os
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError
from huggingface_hub.utils import HFValidationError, validate_repo_id
from safetensors.torch import save
from torch import Tensor

from jola.adapter import CONFIG_NAME, WEIGHTS_NAME, read_adapter
from jola.errors import InputError
from jola.export.affine import factors
from jola.export.folders import new_file, new_folder, size_of
from jola.export.source import Source, adapter_folder, source_of
from jola.files import disk_errors
from jola.interventions import GatedEdits
from jola.run_contents import portable_name
from jola.safe_zip import MAX_RATIO

if TYPE_CHECKING:
    from jola.model import Masks

TOKEN_VARIABLE = "HF_TOKEN"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the time of every entry, so that equal adapters give equal files


@dataclass(frozen=True)
class AdapterReport:
    """What was written, and how large the adapter was as it lay in its directory."""

    path: str
    bytes: int
    bytes_before: int
    kept: int
    """Halves of edits that do something."""
    total: int

    def describe(self) -> str:
        """One line for people."""
        return (
            f"adapter  {self.path}, {self.bytes:,} bytes ({self.bytes_before:,} before), {self.kept} of {self.total} "
            "halves of edits are open"
        )


def export_adapter(
    adapter: Path | str, output: Path | str, *, compact: bool = True, mask: "Masks" = None, strength: float = 1.0
) -> AdapterReport:
    """Write an adapter anew, without folders of this machine in the name of its model.

    Args:
        adapter: An adapter directory or zip file.
        output: A new folder, or a new file whose name ends in ``.zip``.
        compact: Put zeros in place of vectors that do nothing.
        mask: Switches and strengths of single edits, as for `JoLAModel.forward`; they are worked into the vectors.
        strength: Factor on every edit.

    Raises:
        InputError: The adapter cannot be read, or the output is there already or cannot be written.
    """
    output = Path(output)
    with adapter_folder(adapter) as folder:
        source = source_of(folder, mask, strength)
        tensors, kept, total = _tensors(read_adapter(folder).tensors, source, compact)
        files = _files(folder, tensors)
        before = size_of(folder)
    if output.suffix == ".zip":
        with new_file(output) as draft, disk_errors(output), zipfile.ZipFile(draft, "w", compresslevel=9) as archive:
            for name, data in files.items():
                _add(archive, name, data)
        size = output.stat().st_size
    else:
        with new_folder(output) as draft, disk_errors(output):
            for name, data in files.items():
                (draft / name).write_bytes(data)
        size = size_of(output)
    return AdapterReport(str(output), size, before, kept, total)


def push_to_hub(folder: Path | str, repo: str, *, private: bool = True) -> str:
    """Upload an exported folder to the Hub and return its address.

    The token is read from the environment variable HF_TOKEN now, and kept nowhere.

    Args:
        folder: An adapter directory, a folded checkpoint, or a peft adapter.
        repo: "owner/name"; made when it is not there.
        private: Whether a new repository is private.

    Raises:
        InputError: There is no such folder or token, the folder names a place on this machine, or the Hub refuses.
    """
    folder = Path(folder)
    config = next((folder / name for name in (CONFIG_NAME, "config.json") if (folder / name).is_file()), None)
    if config is None:
        raise InputError(f"{folder} is neither an adapter nor a model; export one first and name its folder.")
    base = json.loads(config.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if isinstance(base, str) and base != portable_name(base):
        raise InputError(
            f"{config} names a folder of this machine, {base}; `jola export adapter` writes one that can be shared."
        )
    token = os.environ.get(TOKEN_VARIABLE)
    if not token:
        raise InputError(f"There is no {TOKEN_VARIABLE} in the environment; set it to a token that may write.")
    try:
        validate_repo_id(repo)
        api = HfApi(token=token)
        api.create_repo(repo, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload JoLA edits"))
    except HFValidationError as error:
        raise InputError(f"{repo!r} is no name of a repository; write owner/name.") from error
    except OfflineModeIsEnabled as error:
        raise InputError("The Hub cannot be reached in offline mode; unset HF_HUB_OFFLINE and push again.") from error
    except (HfHubHTTPError, RepositoryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"The Hub did not take {folder} as {repo} ({reason.replace(token, '***')}); check the name, the token's "
            "rights and the network."
        ) from error


def _tensors(tensors: dict[str, Tensor], source: Source, compact: bool) -> tuple[dict[str, Tensor], int, int]:
    """The tensors of an adapter with masks worked in, how many halves do something, and how many there are."""
    result, kept, total = dict(tensors), 0, 0
    for edits, mask in zip(source.interventions, source.masks, strict=True):
        assert isinstance(edits, GatedEdits)  # all that adapters hold
        for half in edits.halves:
            name = f"{edits.site}.{half}"
            factor = factors(edits, half, mask, source.strength)
            on = (edits.gate_values()[half] * factor != 0).unsqueeze(-1)
            vector = tensors[name].float() * factor.unsqueeze(-1)
            result[name] = torch.where(on, vector, torch.zeros_like(vector)) if compact else vector
            kept, total = kept + int(on.sum()), total + int(edits.editable.sum())
    return result, kept, total


def _files(folder: Path, tensors: dict[str, Tensor]) -> dict[str, bytes]:
    config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = portable_name(config["base_model_name_or_path"])
    files = {
        CONFIG_NAME: json.dumps(config, indent=2, ensure_ascii=False).encode(),
        WEIGHTS_NAME: save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata={"format": "pt"}),
    }
    if (folder / "README.md").is_file():
        files["README.md"] = (folder / "README.md").read_bytes()
    return files


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.external_attr = 0o644 << 16
    # Zeros alone pack so well that whoever unpacks them carefully would take them for a bomb.
    packs_too_well = len(zlib.compress(data, 9)) * MAX_RATIO < 2 * len(data)
    archive.writestr(info, data, zipfile.ZIP_STORED if packs_too_well else zipfile.ZIP_DEFLATED, compresslevel=9)
