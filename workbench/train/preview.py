"""Examples as the model sees them, using only the tokenizer: no weights are loaded and nothing large is downloaded."""

import statistics
from dataclasses import dataclass
from typing import Any

from jola.config import RunConfig
from jola.data import assets
from jola.errors import InputError
from workbench.ui.markup import escape

EXAMPLES = 10
_COUNTED = 5000
"""Maximum number of examples whose tokens are counted; more would take too long for a preview."""
_SHOWN_TOKENS = 1500


@dataclass(frozen=True)
class PreviewExample:
    """Each token and whether it contributes to the loss; ``length`` counts all tokens, ``bearing`` those that do."""

    tokens: tuple[tuple[str, bool], ...]
    length: int
    bearing: int
    too_long: bool


@dataclass(frozen=True)
class Preview:
    """Training examples of a run. ``counted`` of ``total`` examples were tokenized; the lengths are those of these."""

    examples: tuple[PreviewExample, ...]
    template: str
    total: int
    counted: int
    too_long: int
    limit: int
    median: float
    longest: int
    longest_used: int
    """Longest of the examples that are not too long; 0 if all are."""
    notes: tuple[str, ...]


def load_preview(config: RunConfig, count: int = EXAMPLES) -> Preview:
    """Load the first ``count`` training examples of a run with these settings.

    Raises `InputError` if the data or the tokenizer cannot be used, or would have to be downloaded with the model.
    """
    from jola.data.examples import Template, describe_tokens
    from jola.data.tasks import load_task

    config.validate()
    tokenizer = load_tokenizer(config)
    template = Template(tokenizer, config.data.template)
    task = load_task(config.data, config.training.seed)
    limit = config.data.max_length
    rows = [template.encode(example) for example in task.train[:_COUNTED]]
    if not rows:
        raise InputError("There are no training examples to show.")
    lengths = [len(row.input_ids) for row in rows]
    fitting = [length for length in lengths if limit <= 0 or length <= limit]
    examples = tuple(
        PreviewExample(
            tokens=tuple(describe_tokens(example, template)) if len(row.input_ids) <= _SHOWN_TOKENS else (),
            length=len(row.input_ids),
            bearing=len(row.input_ids) - row.completion_start,
            too_long=limit > 0 and len(row.input_ids) > limit,
        )
        for example, row in zip(task.train[:count], rows, strict=False)
    )
    return Preview(
        examples=examples,
        template=template.kind,
        total=len(task.train),
        counted=len(rows),
        too_long=len(lengths) - len(fitting),
        limit=limit,
        median=statistics.median(lengths),
        longest=max(lengths),
        longest_used=max(fitting, default=0),
        notes=task.notes,
    )


def load_tokenizer(config: RunConfig) -> Any:
    """Load the tokenizer of the model in the settings. Raises `InputError` if it is not available without the model."""
    name = config.model.model
    asset = assets.ASSETS.get(assets.DEFAULT_MODEL if name == "default" else name)
    if asset is not None and not next(status for status in assets.status() if status.name == asset.name).ready:
        raise InputError(
            f"{asset.title} is not on this computer yet; it is downloaded by the first training or by "
            f"`jola assets fetch {asset.name}`."
        )
    from jola.model.loading import load_tokenizer as load

    return load(name, config.model.revision)


# In HTML


def preview_html(preview: Preview) -> str:
    """Return the preview for the page; all text from the examples is escaped."""
    counted = f"the first {preview.counted:,} of {preview.total:,}" if preview.counted < preview.total else "all"
    limit = (
        f"{preview.too_long:,} of {preview.counted:,} are longer than {preview.limit:,} tokens and will be left out."
    )
    if preview.limit <= 0:
        limit = "No example is left out, because there is no length limit."
    elif not preview.too_long:
        limit = f"None is longer than {preview.limit:,} tokens, so none is left out."
    notes = "".join(f"<p>{escape(note)}</p>" for note in preview.notes)
    return (
        '<div class="pv-about">'
        f"<p><b>{preview.total:,} training examples</b>, written with the {preview.template} template. "
        f"Tokens of {counted}: half have up to {preview.median:g}, the longest {preview.longest:,}. {limit}</p>"
        '<p>Tokens that the model learns to write (they bear the loss) are <b class="pv-loss">bold, underlined</b>; '
        'the rest is its prompt. A thin line ends each token; <span class="pv-mark">⏎</span> is a line break.</p>'
        f"{notes}</div>"
        f'<ol class="pv-list">{"".join(_example_html(example) for example in preview.examples)}</ol>'
    )


def _example_html(example: PreviewExample) -> str:
    warning = ' <b class="pv-long">too long, left out</b>' if example.too_long else ""
    body = "".join(_token_html(text, bears_loss) for text, bears_loss in example.tokens)
    if not body:
        body = f"<i>An example of more than {_SHOWN_TOKENS:,} tokens is not written out.</i>"
    return (
        f'<li><p class="pv-count">{example.length:,} tokens, {example.bearing:,} of them bear the loss{warning}</p>'
        f'<p class="pv-text">{body}</p></li>'
    )


def _token_html(text: str, bears_loss: bool) -> str:
    tag, kind = ("b", "pv-token pv-loss") if bears_loss else ("span", "pv-token")
    shown = escape(text).replace("\n", '<span class="pv-mark">⏎</span>\n')
    return f'<{tag} class="{kind}">{shown}</{tag}>'
