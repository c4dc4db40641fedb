"""Upload exports to the Hub."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import HfApi
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils import HFValidationError, validate_repo_id

from jola.adapters.card import portable_name
from jola.adapters.directory import CONFIG_NAME, save_adapter
from jola.errors import InputError
from jola.export.compact import export_adapter

if TYPE_CHECKING:
    from jola.model.edited import EditedModel

TOKEN_VARIABLE = "HF_TOKEN"


def push_to_hub(folder: Path | str, repo: str, *, private: bool = True, api: HfApi | None = None) -> str:
    """Upload an exported folder to the Hub and return its address.

    The token is read from the environment variable HF_TOKEN and is not stored.

    Args:
        folder: An adapter directory, a folded checkpoint, or a peft adapter.
        repo: "owner/name"; created if it does not exist.
        private: Whether a new repository is private.
        api: The Hub, with its token; the public one by default.

    Raises:
        InputError: The folder or token is missing, the folder names a local path, or the Hub refuses.
    """
    folder = Path(folder)
    check_repo(repo)
    config = next((folder / name for name in (CONFIG_NAME, "config.json") if (folder / name).is_file()), None)
    if config is None:
        raise InputError(f"{folder} is neither an adapter nor a model; export one first and give its folder.")
    try:
        base = json.loads(config.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (ValueError, AttributeError, OSError) as error:
        raise InputError(f"{config} cannot be read as JSON; export the folder again.") from error
    if isinstance(base, str) and base != portable_name(base):
        raise InputError(
            f"{config} names a folder of this computer, {base}; share the result of `jola export adapter` instead."
        )
    token = os.environ.get(TOKEN_VARIABLE, "")
    if api is None:
        check_token()
        api = HfApi(token=token)
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload JoLA edits"))
    except OfflineModeIsEnabled as error:
        raise InputError("The Hub cannot be reached in offline mode; unset HF_HUB_OFFLINE and push again.") from error
    except Exception as error:  # from the Hub, the disk, or the HTTP library of the client
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"The Hub refused the upload of {folder} to {repo} ({reason.replace(token, '***') if token else reason}); "
            "check the name, the token's rights and the network."
        ) from error


def push_adapter(
    model: "EditedModel", repo: str, *, private: bool = True, facts: Mapping[str, Any] | None = None, api: Any = None
) -> str:
    """Upload the edits of a model as a compact adapter without local paths; see `push_to_hub`."""
    check_repo(repo)
    with tempfile.TemporaryDirectory(prefix="jola-push-") as folder:
        whole = save_adapter(model, Path(folder) / "whole", facts)
        export_adapter(whole, Path(folder) / "adapter")
        return push_to_hub(Path(folder) / "adapter", repo, private=private, api=api)


def check_repo(repo: str) -> None:
    """Raise `InputError` if this is not a valid repository name, before any file is written."""
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise InputError(f"{repo!r} is not a valid repository name; use owner/name.") from error
    if repo.count("/") != 1:
        raise InputError(f"{repo!r} is not a valid repository name; use owner/name.")


def check_token() -> None:
    """Raise `InputError` if there is no token for the upload."""
    if not os.environ.get(TOKEN_VARIABLE):
        raise InputError(f"The environment variable {TOKEN_VARIABLE} is not set; set it to a token with write access.")
