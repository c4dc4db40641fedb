"""Download adapters from the Hub: only their files, with limits on their size."""

import re
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import HFValidationError

from jola.adapters.card import PICTURE_NAME
from jola.adapters.directory import CONFIG_LIMIT, CONFIG_NAME, CONFIG_NAMES, WEIGHTS_LIMIT, WEIGHTS_NAME
from jola.errors import InputError
from jola.settings import check_revision

FILES = (*CONFIG_NAMES, WEIGHTS_NAME, "README.md", PICTURE_NAME)
"""The files of a repository that are downloaded; others are ignored."""

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


def fetch(repo: str, revision: str | None = None, *, api: HfApi | None = None) -> Path:
    """Download the files of an adapter if they are not cached; return their directory in the cache of the Hub.

    Raises:
        InputError: The repository or revision does not exist, it contains no adapter or a file that is too large, or
            the Hub cannot be reached and the adapter is not cached.
    """
    check_revision(revision)
    api = api or HfApi()
    name = f"{repo} at {revision}" if revision else repo
    try:
        try:
            found = api.model_info(repo, revision=revision, files_metadata=True)
        except (HFValidationError, HfHubHTTPError):
            raise
        except Exception:  # without network; the type depends on the HTTP library of this release of the client
            return Path(api.snapshot_download(repo, revision=revision, local_files_only=True, allow_patterns=[*FILES]))
        # Sizes are checked before the download, because a file may be larger than the disk.
        sizes = {file.rfilename: file.size or 0 for file in found.siblings or ()}
        if CONFIG_NAME not in sizes or WEIGHTS_NAME not in sizes:
            raise InputError(f"{name} on the Hub is not an adapter: {CONFIG_NAME} or {WEIGHTS_NAME} is missing.")
        for file in FILES:
            if sizes.get(file, 0) > (WEIGHTS_LIMIT if file == WEIGHTS_NAME else CONFIG_LIMIT):
                raise InputError(f"{file} of {name} on the Hub exceeds the size limit; it was not downloaded.")
        return Path(api.snapshot_download(repo, revision=revision, allow_patterns=[*FILES]))
    except HFValidationError as error:
        raise InputError(f"{repo!r} is not a valid repository name; use owner/name.") from error
    except InputError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise InputError(
            f"There is no folder or file {repo}, and the adapter {name} could not be downloaded from the Hub "
            f"({reason})."
        ) from error
