"""Serve only the Runs tab: ``python -m tests.browser.runs_page --runs FOLDER``."""

import sys
import threading

import gradio as gr
import tyro

from workbench import theme
from workbench.runs import run_table
from workbench.runs import tab as runs
from workbench.server.serve import serve
from workbench.service.bench import Workbench
from workbench.settings import Settings

settings = tyro.cli(Settings).validate()
bench = Workbench.from_settings(settings)
if run_table.STYLE not in theme.STYLE:
    theme.STYLE += run_table.STYLE
with gr.Blocks(title="Runs", fill_width=True, analytics_enabled=False) as page:
    with gr.Tabs(elem_id="places"), gr.Tab("Runs", id="runs"):
        tab = runs.build(bench)
        opened = gr.Textbox("", elem_id="opened", elem_classes="jw-hidden", show_label=False)

    def in_train(event: gr.EventData) -> str:
        return f"train {runs.chosen(event)}"

    def in_playground(event: gr.EventData) -> str:
        return f"playground {runs.chosen(event)}"

    tab.table.train(in_train, None, opened, api_visibility="private")  # pyright: ignore
    tab.table.playground(in_playground, None, opened, api_visibility="private")  # pyright: ignore
    page.load(None, None, None, js="() => { document.documentElement.dataset.ready = '1'; }")
sys.stderr.write(f"{serve(page, settings).address}\n")
sys.stderr.flush()
threading.Event().wait()
