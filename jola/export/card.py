"""Model cards of exports: description, how to load, and measurements."""

from typing import TYPE_CHECKING

from huggingface_hub import ModelCard, ModelCardData

from jola.adapters.card import hub_id, portable_name
from jola.export.exactness import percent

if TYPE_CHECKING:
    from jola.export.fold import FoldReport
    from jola.model.edited import EditedModel


def header(model: "EditedModel", tags: list[str], library: str) -> str:
    """The YAML front matter of a card."""
    data = ModelCardData(base_model=hub_id(model.name), library_name=library, pipeline_tag="text-generation", tags=tags)
    return f"---\n{data.to_yaml()}\n---"


def folded_card(model: "EditedModel", report: "FoldReport") -> str:
    """The model card of a folded checkpoint."""
    base = portable_name(model.name)
    before, after = report.before_cast, report.after_cast
    converted = (
        f" Its architecture is {report.architecture} instead of {report.converted_from}; it computes the same and has "
        "the biases that the offsets need."
        if report.converted_from
        else ""
    )
    lines = [
        header(model, list(model.method.tags), "transformers"),
        f"# {base} with folded {model.method.title} edits",
        f"{base} with learned edits ({model.method.full_name}), folded into its weights: a plain checkpoint that needs "
        f"no other code.{converted}",
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")\n'
        'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")\n```',
        f"Measured on {report.prompts} prompts with {report.tokens} tokens, in float32 arithmetic, against the model "
        "with the edits at run time:",
        "\n".join(
            [
                "| | max \\|Δlogit\\| | share of the edits' effect lost |",
                "|---|---|---|",
                f"| folded, float32 | {before.largest:.2g} | {percent(before.lost)} |",
                f"| folded, {report.dtype} (these files) | {after.largest:.2g} | {percent(after.lost)} |",
            ]
        ),
        f"The edits change logits by up to {report.effect:.3g}, and {report.dtype} by itself changes those of the "
        f"frozen model by up to {report.base_rounding:.2g}. The most likely token is the same at {after.same_top} of "
        f"{report.tokens} positions.",
        "The license of the base model applies to this model too. The edits were trained on few examples: evaluate "
        "them on your own data.",
    ]
    return str(ModelCard("\n\n".join(lines) + "\n"))
