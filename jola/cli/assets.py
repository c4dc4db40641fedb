"""``jola assets``: the default model and data."""

import dataclasses
from typing import Annotated

from tyro.conf import Positional, arg
from tyro.extras import SubcommandApp

from jola.cli import console
from jola.cli.common import Json

assets = SubcommandApp()


@assets.command(is_default=True)
def show(json: Json = False) -> None:
    """List the assets, their size and whether they have been fetched."""
    from jola.data.assets import status

    found = status()
    if json:
        console.print_json({"assets": [dataclasses.asdict(asset) | {"folder": str(asset.folder)} for asset in found]})
        return
    rows = [
        [
            asset.name,
            asset.title,
            asset.licence,
            asset.version,
            console.size(asset.size) if asset.ready else "not fetched",
        ]
        for asset in found
    ]
    console.print_table(["asset", "what it is", "license", "version", "size"], rows)


@assets.command
def fetch(
    name: Positional[Annotated[tuple[str, ...], arg(metavar="[NAME ...]", help="Names of assets; default: all.")]] = (),
) -> None:
    """Download the default model and data and the encoder of BERTScore, for use without a network."""
    from jola.data.assets import ASSETS, ensure

    for each in name or ASSETS:
        console.print_text(f"{each}  {ensure(each)}")


@assets.command
def remove(
    name: Positional[Annotated[tuple[str, ...], arg(metavar="[NAME ...]", help="Names of assets; default: all.")]] = (),
) -> None:
    """Delete fetched assets; they are fetched again when needed."""
    from jola.data import assets

    for each in name or assets.ASSETS:
        console.print_text(f"{each}  {console.size(assets.remove(each))} freed")
