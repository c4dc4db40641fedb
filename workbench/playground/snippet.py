"""Python code that reproduces the numbers of a view in a notebook or a script."""

import textwrap
from collections.abc import Sequence

from jola.edits.masks import HeadMask
from jola.edits.names import HALVES
from jola.system.paths import is_there
from workbench.service.page_state import Column
from workbench.service.session import Prompt, Use


def snippet(columns: Sequence[Column], call: str, prompt: Prompt | None = None, **names: object) -> str:
    """Return code that loads what the page uses and then runs ``call``, once for each column.

    ``call`` may use ``model``, ``mask`` and, if a prompt is given, ``prompt``; ``names`` are further variables.
    """
    imports = {"from jola import JoLAModel, insight"}
    lines: list[str] = []
    plain = ""
    if prompt is not None and prompt.plain:
        plain = f'prompt = model.tokenizer({prompt.text!r})["input_ids"]'
    elif prompt is not None:
        lines += _prompt_lines(prompt, imports)
    lines += [f"{name} = {value!r}" for name, value in names.items()]
    blocks = [_column_lines(column, call, plain, imports) for column in columns]
    return "\n".join([*sorted(imports), "", *lines, *(line for block in blocks for line in block)]) + "\n"


def _prompt_lines(prompt: Prompt, imports: set[str]) -> list[str]:
    if len(prompt.turns) == 1 and prompt.turns[0][0] == "user":
        return [f"prompt = {prompt.text!r}"]
    imports.add("from jola.data.records import Example, Message")
    turns = ", ".join(f"Message({role!r}, {content!r})" for role, content in prompt.turns)
    return [f'prompt = Example(({turns},), "")']


def _column_lines(column: Column, call: str, plain: str, imports: set[str]) -> list[str]:
    first, *rest = column.stack
    lines = [_loading_line(first), *filter(None, [plain])]
    if not rest:
        if first.strength != 1.0:
            call = call.replace("mask=mask", f"mask=mask, strength={first.strength:g}")
        return [*lines, *_mask_lines(first, "mask", imports), call]
    imports.add("from jola import load_edits")
    lines.append("edits, masks = list(model.own_interventions()), []")
    lines += _masks_of(first, "model.own_interventions()", imports)
    for use in rest:
        lines.append(f"more = load_edits({str(use.run.adapter_dir)!r}, model)")
        lines.append("edits += more")
        lines += _masks_of(use, "more", imports)
    return [*lines, "with model.using(edits):", textwrap.indent(call.replace("mask=mask", "mask=masks"), "    ")]


def _loading_line(use: Use) -> str:
    """Return code that loads the model as in the run; the adapter lacks the path of a local model and the dtype."""
    asked = use.run.run_config().model
    options = ""
    if is_there(asked.model):
        options += f", model={asked.model!r}"
    if asked.dtype != "auto":
        options += f", dtype={asked.dtype!r}"
    return f"model = JoLAModel.from_adapter({str(use.run.adapter_dir)!r}{options})"


def _mask_lines(use: Use, name: str, imports: set[str]) -> list[str]:
    changed = {site: mask for site, mask in use.masks.items() if mask.changed}
    lines = []
    if changed:
        imports.add("from jola.edits.masks import HeadMask")
    masks = {site: f"{_mask_of(mask)}.edit_mask()" for site, mask in changed.items()}
    if not masks:
        lines.append(f"{name} = None")
    elif len(use.masks) == 1:
        lines.append(f"{name} = {next(iter(masks.values()))}")
    else:
        lines.append(f"{name} = {{" + ", ".join(f"{site!r}: {text}" for site, text in masks.items()) + "}")
    return lines


def _masks_of(use: Use, edits: str, imports: set[str]) -> list[str]:
    """Return code for one mask per site of an adapter that is combined with others, in the order of its edits."""
    changed = {site: mask for site, mask in use.masks.items() if mask.changed}
    if use.strength == 1.0 and not changed:
        return [f"masks += [None] * len({edits})"]
    imports.add("from jola.edits.intervention import EditMask")
    lines = []
    if changed:
        imports.add("from jola.edits.masks import HeadMask")
    own = ", ".join(f"{site!r}: {_mask_of(mask)}.edit_mask()" for site, mask in changed.items())
    lines.append(f"own = {{{own}}}")
    lines.append(f"for e in {edits}:")
    lines.append("    factors = own.get(e.site) or EditMask.all(e)")
    lines.append(f"    masks.append(factors.map(lambda factor: factor * {use.strength:g}))")
    return lines


def _mask_of(mask: HeadMask) -> str:
    channels = "" if mask.channels == HALVES else f", {mask.channels!r}"
    return f"HeadMask.from_text({mask.to_text()!r}, {mask.layers}, {mask.units}{channels})"
