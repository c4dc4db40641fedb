"""The page of the app, with corrections of what Gradio does before and after a function is called."""

from itertools import zip_longest
from typing import Any

import gradio as gr

from jola.errors import InputError
from workbench.server.faults import SENTENCE, OutputError, is_of_the_request


def _may_have(block: Any, value: Any) -> bool:
    """Whether a component may have a value of this type; only some types are checked."""
    if isinstance(block, gr.HTML):
        return isinstance(value, str)
    if isinstance(block, gr.BrowserState):
        return isinstance(value, type(block.default_value))
    if isinstance(block, gr.Dropdown) and block.multiselect:
        return isinstance(value, list)
    if isinstance(block, (gr.Checkbox, gr.Dropdown, gr.Number, gr.Radio, gr.Slider)):
        return not isinstance(value, (dict, list))
    return True


class Blocks(gr.Blocks):
    """A page that answers malformed values with a sentence and shows every result of a generator once."""

    async def preprocess_data(self, block_fn: Any, *args: Any, **kwargs: Any) -> list[Any]:
        """Convert the inputs of an event: missing text becomes empty text, and a missing file is refused.

        So is a value of a type that the component never has, because Gradio does not check the types of most values.
        """
        values = await super().preprocess_data(block_fn, *args, **kwargs)
        for index, (block, value) in enumerate(zip(block_fn.inputs, values, strict=False)):
            if value is None and isinstance(block, gr.UploadButton):
                raise gr.Error("Choose a file first.", print_exception=False)
            if value is None and isinstance(block, gr.Textbox):
                values[index] = ""
            if value is not None and not _may_have(block, value):
                raise gr.Error(SENTENCE, print_exception=False)
        return values

    async def postprocess_data(self, block_fn: Any, *args: Any, **kwargs: Any) -> list[Any]:
        """Convert the output of a function for the page. Raises `OutputError` if a component refuses it."""
        try:
            return await super().postprocess_data(block_fn, *args, **kwargs)
        except (InputError, gr.Error):
            raise
        except Exception as error:
            raise OutputError(f"The output of {block_fn.name} cannot be shown: {error}") from error

    async def process_api(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Answer an event. Raises `gr.Error` with one sentence for invalid values."""
        try:
            return await super().process_api(*args, **kwargs)
        except InputError as error:
            raise gr.Error(str(error), print_exception=False) from error
        except gr.Error as error:  # also raised by Gradio's components for a value that is not among the choices
            error.print_exception = False
            raise
        except Exception as error:
            if not is_of_the_request(error):
                raise
            raise gr.Error(SENTENCE, print_exception=False) from error

    def handle_streaming_diffs(
        self,
        block_fn: Any,
        data: list[Any],
        session_hash: str | None,
        run: str | None,
        final: bool,
        simple_format: bool = False,
    ) -> list[Any]:
        """Return what is sent for one result of a generator: edits that replace whole values, after its first result.

        The page applies edits in place. An edit inside a value would also change the previous result if the page has
        not shown it yet, and what only that result contains would be lost. At the end, Gradio sends the last result
        again; on the page, it would replace the results of later events.
        """
        streams = self.pending_diff_streams[session_hash] if session_hash else {}
        before = list(streams.get(run, ()))
        values = super().handle_streaming_diffs(block_fn, data, session_hash, run, final, simple_format=True)
        if final and block_fn.api_visibility == "private":
            return [gr.skip() for _ in values]
        if final or simple_format or not before:
            return values
        return [[] if new == old else [["replace", [], new]] for old, new in zip_longest(before, values)]
