"""Print the lowest versions that pyproject.toml admits, as a constraints file for pip.

    python tools/lowest.py [--extras test …]

Every package that pyproject.toml names is pinned to its lower bound; indirect dependencies are not pinned, as with
``uv pip compile --resolution lowest-direct``. `make test-lowest` installs with these constraints.
"""

import argparse
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?:\[(?P<extras>[\w,-]+)\])?\s*(?P<bounds>[^;]*)")
_LOWER = re.compile(r">=\s*([\w.]+)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the constraints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extras", nargs="*", default=["test"], help="extras whose packages are pinned too")
    extras = parser.parse_args(arguments).extras
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    print("\n".join(constraints(project, extras)))
    return 0


def constraints(project: Mapping[str, Any], extras: Sequence[str]) -> list[str]:
    """Return a sorted line ``name==version`` for each package; raise ValueError for a package without a lower bound."""
    groups = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in extras)]
    return sorted({f"{name}=={version}" for group in groups for name, version in _lowest(project, group)})


def _lowest(project: Mapping[str, Any], requirements: Sequence[str]) -> Iterator[tuple[str, str]]:
    for requirement in requirements:
        found = _REQUIREMENT.fullmatch(requirement)
        if found is None:
            raise ValueError(f"{requirement!r} cannot be read.")
        if found["name"] == project["name"]:  # extras of this project
            for extra in found["extras"].split(","):
                yield from _lowest(project, project["optional-dependencies"][extra])
        elif lower := _LOWER.search(found["bounds"]):
            yield found["name"], lower[1]
        else:
            raise ValueError(f"{requirement!r} has no lower bound.")


if __name__ == "__main__":
    sys.exit(main())
