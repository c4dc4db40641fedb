"""The look of the page: gradio's theme in our palette, and the style sheet that defines the colors."""

import inspect
from pathlib import Path

import gradio as gr

from workbench.compare import compare_view
from workbench.playground import edit_map
from workbench.runs import answers_panel, export_panel, run_table
from workbench.studies import study_view
from workbench.train import run_view
from workbench.ui import example_table, view_tools

_HERE = Path(__file__).parent

ICON = _HERE / "ui" / "icon.svg"

STYLE = "\n".join(
    (
        (_HERE / "ui" / "style.css").read_text(encoding="utf-8"),
        run_view.STYLE,
        edit_map.STYLE,
        run_table.STYLE,
        view_tools.STYLE,
        export_panel.STYLE,
        example_table.STYLE,
        answers_panel.STYLE,
        compare_view.STYLE,
        study_view.STYLE,
        (_HERE / "playground" / "playground.css").read_text(encoding="utf-8"),
        (_HERE / "train" / "train.css").read_text(encoding="utf-8"),
    )
)


def theme() -> gr.themes.Base:
    """Return gradio's base theme in the colors of ``style.css``, with the fonts bundled with gradio.

    Only weights 400 and 700 are used, because the other bundled files contain only some of the characters.
    """
    names = {
        "body_background_fill": "surface",
        "body_text_color": "text",
        "body_text_color_subdued": "quiet",
        "block_label_text_color": "text",
        "block_title_text_color": "text",
        "block_info_text_color": "quiet",
        "border_color_primary": "line",
        "border_color_accent": "accent",
        "color_accent": "accent",
        "color_accent_soft": "panel",
        "input_background_fill": "surface",
        "input_background_fill_focus": "surface",
        "input_border_color": "edge",
        "input_border_color_focus": "accent",
        "input_placeholder_color": "quiet",
        "button_primary_background_fill": "accent",
        "button_primary_background_fill_hover": "accent",
        "button_primary_text_color": "on-accent",
        "button_secondary_background_fill": "surface",
        "button_secondary_background_fill_hover": "panel",
        "button_secondary_border_color": "edge",
        "button_secondary_text_color": "text",
        "slider_color": "accent",
        "loader_color": "accent",
        "background_fill_primary": "surface",
        "background_fill_secondary": "panel",
        "link_text_color": "accent",
    }
    known = inspect.signature(gr.themes.Base.set).parameters
    colours = {
        name + mode: f"var(--jw-{colour})"
        for name, colour in names.items()
        for mode in ("", "_dark")
        if name + mode in known  # a name without a dark variant applies to both themes
    }
    return gr.themes.Base(
        primary_hue="blue",
        neutral_hue="slate",
        spacing_size="sm",
        radius_size="sm",
        text_size="sm",
        font=[gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif"],
        font_mono=[gr.themes.LocalFont("IBM Plex Mono", weights=(400, 700)), "ui-monospace", "monospace"],
    ).set(
        **colours,
        block_title_text_weight="400",
        block_label_text_weight="400",
        button_large_text_weight="700",
        button_medium_text_weight="400",
        button_small_text_weight="400",
        button_border_width="1px",
        input_border_width="1px",
        block_border_width="0px",
        block_shadow="none",
        input_shadow="none",
        input_shadow_focus="none",
        layout_gap="0px",
    )
