"""Read tables from the Hugging Face Hub without running code from there."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jola.data.records import Example
from jola.errors import InputError
from jola.system.hub import hub_or_cache

CONVERTED = "refs/convert/parquet"
"""Branch in which the Hub stores a Parquet copy of each dataset, in files ``<configuration>/<split>/*.parquet``."""
_COMMIT = re.compile(r"[0-9a-f]{40}")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class HubTable:
    """A dataset on the Hub.

    Args:
        repo: ``owner/name``.
        configuration: Name of a configuration, if the dataset has several.
        revision: Commit to read; None reads the newest, which is recorded in the run.
        converted: Whether to read the Hub's Parquet copy, for a dataset whose own files are a loading script.
    """

    repo: str
    configuration: str | None = None
    revision: str | None = None
    converted: bool = False

    @property
    def url(self) -> str:
        """URL of the dataset's page."""
        return f"https://huggingface.co/datasets/{self.repo}"

    def read(self, splits: Sequence[str], task: str) -> tuple[dict[str, list[Row]], str | None]:
        """Return the rows of each split and the commit they are from (None if unknown).

        Args:
            splits: Names of the splits on the Hub.
            task: Name of the task, for messages.

        Raises:
            InputError: The data are not in the cache and cannot be downloaded, or lack a split.
        """
        try:
            found, revision = (self._read_copy if self.converted else self._read_dataset)(splits)
        except Exception as error:
            # Network, cache, builders and readers raise different errors, which all mean the same to the user.
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise InputError(
                f"The data of {task} ({self.repo} on the Hugging Face Hub) are not in the cache of this machine and "
                f"could not be fetched ({reason}); run `jola tasks fetch {task}` with a network connection, or copy "
                "the cache (HF_HOME) of a machine that has them."
            ) from error
        missing = [split for split in splits if not found.get(split)]
        if missing:
            raise InputError(f"The dataset {self.repo} has no split {missing[0]}; update jola-workbench.")
        return found, revision

    def _read_dataset(self, splits: Sequence[str]) -> tuple[dict[str, list[Row]], str | None]:
        # Imported here because it takes a second, and before the block because the import fixes whether it is offline.
        from datasets import load_dataset

        with hub_or_cache():
            dataset = load_dataset(self.repo, self.configuration, revision=self.revision)
        rows = {split: dataset[split].to_list() for split in splits if split in dataset}
        return rows, commit_of(dataset) or self.revision

    def _read_copy(self, splits: Sequence[str]) -> tuple[dict[str, list[Row]], str | None]:
        import pyarrow.parquet
        from huggingface_hub import snapshot_download

        with hub_or_cache():
            folder = Path(
                snapshot_download(
                    self.repo,
                    repo_type="dataset",
                    revision=self.revision or CONVERTED,
                    allow_patterns=[f"{self.configuration}/{split}/*.parquet" for split in splits],
                )
            )
        rows: dict[str, list[Row]] = {}
        for split in splits:
            files = sorted(folder.glob(f"{self.configuration}/{split}/*.parquet"))
            if not files:
                raise FileNotFoundError(f"{self.configuration}/{split} does not exist")
            rows[split] = [row for file in files for row in pyarrow.parquet.read_table(file).to_pylist()]
        return rows, folder.name if _COMMIT.fullmatch(folder.name) else self.revision


def commit_of(dataset: Any) -> str | None:
    """Return the commit that a ``DatasetDict`` was read from, a folder name in its cache; None if not found."""
    files = [Path(file["filename"]) for split in dataset.values() for file in split.cache_files]
    commits = {name for file in files for name in file.parts if _COMMIT.fullmatch(name)}
    return commits.pop() if len(commits) == 1 else None


def examples_of(rows: Sequence[Row], build: Callable[[Row], Example], table: HubTable) -> list[Example]:
    """Build an example from each row; raises `InputError` if a row is not as ``build`` expects."""
    examples = []
    for number, row in enumerate(rows, 1):
        try:
            examples.append(build(row))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise InputError(
                f"Row {number} of {table.repo} is not as expected ({type(error).__name__}: {error}); the dataset may "
                "have changed: update jola-workbench."
            ) from error
    return examples
