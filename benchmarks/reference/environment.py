"""Create the separate virtual environment in which the reference package of JoLA runs.

    python benchmarks/reference/environment.py [FOLDER]

The reference package pins releases of transformers and trl that this project cannot use, so it needs its own
environment. The package itself is installed as published and verified by its SHA-256. The pins below are releases of
the same months that work together under Python 3.11. torch is the release with which this project is measured, so that
a ratio of two step times compares two programs and not two tensor libraries. The environment takes about 1.3 GB with a
CPU build of torch.

wandb, which the package declares, is left out, because nothing here imports it.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
REFERENCE_VERSION = "0.0.1"
WHEEL_SHA256 = "eaaa1bb72b431c2201ed49ca936f62156d20fef76f153a8ce59d1ff8592c21f7"
PYTHON = (3, 11)

REQUIREMENTS = (
    # Pinned by the reference package.
    "transformers==4.45.1",
    "trl==0.8.1",
    # Not pinned there.
    "torch==2.13.0",
    "accelerate==1.2.1",
    "datasets==3.2.0",
    "numpy==1.26.4",
    "pandas==2.2.3",
    "pyarrow==18.1.0",
    # Imported by the package and by trl, but declared by neither.
    "pyyaml",
    "rich",
)

CHECK = """
import importlib.metadata as metadata
from jola import JoLAModel, JoLATrainer
for name in ("jola", "transformers", "trl", "torch", "numpy"):
    print(f"{name} {metadata.version(name)}")
"""


def python_of(folder: Path) -> Path:
    """Return the interpreter of a virtual environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def make(folder: Path) -> Path:
    """Create or complete the environment in `folder` and return its interpreter.

    Raises:
        subprocess.CalledProcessError: pip or the final import failed; its messages are on stderr.
    """
    if not (folder / "pyvenv.cfg").exists():
        venv.EnvBuilder(with_pip=True, symlinks=os.name != "nt").create(folder)
    python = python_of(folder)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install"]
    subprocess.run([*pip, *REQUIREMENTS], check=True)
    with tempfile.TemporaryDirectory() as scratch:
        pinned = Path(scratch) / "reference.txt"
        pinned.write_text(f"jola=={REFERENCE_VERSION} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
        subprocess.run([*pip, "--no-deps", "--requirement", str(pinned)], check=True)
    # Runs in the folder of the environment, because `jola` would be this project in the repository root.
    subprocess.run([str(python), "-c", CHECK], check=True, cwd=folder)
    return python


def main() -> int:
    parser = argparse.ArgumentParser(description="Create the environment of the reference package.")
    parser.add_argument(
        "folder", nargs="?", type=Path, default=REPOSITORY / ".venv-reference", help="default: %(default)s"
    )
    folder: Path = parser.parse_args().folder.resolve()
    if sys.version_info[:2] != PYTHON:
        needed = ".".join(map(str, PYTHON))
        print(f"error: The pins are for Python {needed}; start this script with it.", file=sys.stderr)
        return 2
    try:
        python = make(folder)
    except subprocess.CalledProcessError as error:
        print(f"error: The environment in {folder} is not complete: {error}.", file=sys.stderr)
        return 1
    print(f"ready: {python}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
