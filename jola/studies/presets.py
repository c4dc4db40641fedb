"""The paper's tables and figures as axes of a grid."""

import dataclasses
from dataclasses import dataclass

from jola.errors import InputError
from jola.methods import METHODS

COMMONSENSE = ("arc_challenge", "arc_easy", "boolq", "hellaswag", "obqa", "piqa", "siqa", "winogrande")
MMLU_PRO = tuple(
    f"mmlu_pro/{domain}"
    for domain in (
        "biology", "business", "chemistry", "computer_science", "economics", "engineering", "health", "history", "law",
        "math", "other", "philosophy", "physics", "psychology",
    )
)  # fmt: skip
GENERATION = ("common_gen", "e2e_nlg", "web_nlg", "xsum")
SIX = ("siqa", "winogrande", "mmlu_pro/law", "mmlu_pro/physics", "e2e_nlg", "web_nlg")
"""Tasks of the paper's ablations."""
_THOUSAND = 1000
SIZES = (
    100, 200, 300, 400, 500, 600, 800, *(n * _THOUSAND for n in (1, 2, 3, 5, 8, 10, 20, 30, 50, 80, 100)),
)  # fmt: skip
_LLAMA = "meta-llama/Llama-3.1-8B-Instruct"


@dataclass(frozen=True)
class Preset:
    """Axes of a table or figure of the paper; each of them can be replaced."""

    title: str
    arms: tuple[str, ...]
    tasks: tuple[str, ...]
    train_sizes: tuple[int, ...] = (200,)
    models: tuple[str, ...] = (_LLAMA,)


PRESETS: dict[str, Preset] = {
    "main": Preset(
        "Table 1: all methods on all tasks",
        ("zero-shot", "lora", "bitfit", "red", "repe", "loreft", "lofit", "jola"),
        (*COMMONSENSE, *MMLU_PRO, *GENERATION),
        models=(_LLAMA, "Qwen/Qwen2.5-7B-Instruct"),
    ),
    "components": Preset(
        "Table 2: edits of heads, of MLPs, of both; with and without gates",
        ("jola", "jola:gates=none", "jola:sites=mlp/both", "jola:sites=mlp/both:gates=none"),
        SIX,
    ),
    "gates": Preset(
        "Figure 5: one gate for offset and scale, or one each",
        ("jola", "jola:gates=shared"),
        SIX,
        models=(_LLAMA, "Qwen/Qwen2.5-7B-Instruct"),
    ),
    "selectors": Preset(
        "Figure 6: JoLA, and edits of heads that other methods choose first",
        ("jola", "jola:gates=none:heads=smp@32/dsp@32/pass@32"),
        SIX,
        models=(_LLAMA, "Qwen/Qwen2.5-7B-Instruct"),
    ),
    "schedules": Preset("Table 8: schedules of λ", ("jola:l0_schedule=linear/cyclic/performance/exponential",), SIX),
    "recipes": Preset(
        "Section 4.3: the default settings, those of the paper, and those of its code",
        ("jola", "jola:recipe=paper/reference"),
        SIX,
    ),
    "data-size": Preset("Figure 8: numbers of training examples", ("jola", "lora"), ("siqa", "winogrande"), SIZES),
    "model-size": Preset(
        "Figure 9: sizes of the model",
        ("zero-shot", "lora", "jola"),
        SIX,
        models=(
            "meta-llama/Llama-3.2-1B-Instruct",
            "meta-llama/Llama-3.2-3B-Instruct",
            _LLAMA,
            "meta-llama/Llama-3.1-70B-Instruct",
        ),
    ),
}
"""Presets by their names in ``jola grid plan --preset``."""


def preset_named(name: str) -> Preset:
    """Return the preset of a name, without methods that are not in `METHODS`.

    Raises:
        InputError: There is no such preset.
    """
    if name not in PRESETS:
        raise InputError(f"--preset is {name!r}; choose one of {', '.join(PRESETS)}.")
    preset = PRESETS[name]
    return dataclasses.replace(preset, arms=tuple(arm for arm in preset.arms if arm.split(":")[0] in METHODS))
