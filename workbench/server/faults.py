"""Handling of exceptions that are raised while a request is answered.

Gradio accepts any JSON and fails later if a value is missing or has the wrong type. An exception raised before our code
is called is therefore caused by the request: the client gets one sentence, and nothing is logged as an error, because
otherwise any client could fill the log. All other exceptions are faults of the program and are logged, including those
raised while Gradio converts the output of our code.
"""

import logging
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from jola.errors import InputError

SENTENCE = "The values of this request are not valid."

_log = logging.getLogger(__name__)
_SERVER = Path(__file__).resolve().parent
_OURS = tuple(f"{folder}/" for folder in (_SERVER.parents[1] / "jola", _SERVER.parent))
_OF_THE_MACHINE = (ImportError, MemoryError, OSError)


class OutputError(RuntimeError):
    """Raised if one of our functions returns a value that a component cannot show."""


def is_of_the_request(error: BaseException) -> bool:
    """Whether an exception was caused by a malformed request, that is, raised before any of our code was called."""
    if isinstance(error, (OutputError, *_OF_THE_MACHINE)):
        return False
    place = error.__traceback__
    while place is not None:
        name = place.tb_frame.f_code.co_filename
        if name.startswith(_OURS) and not name.startswith(f"{_SERVER}/"):
            return False
        place = place.tb_next
    return True


async def answer(request: Request, error: Exception) -> Response:
    """Return the answer to a request that raised ``error``. Starlette calls this, then raises the error again."""
    if is_of_the_request(error):
        return PlainTextResponse(SENTENCE, 400)
    return PlainTextResponse("Internal error; see the log of the app.", 500)


def record(error: Exception) -> None:
    """Log an exception that `answer` has answered; only at debug level if the request was malformed."""
    if is_of_the_request(error):
        _log.debug("A request was malformed.", exc_info=error)
    else:
        _log.error("A request was not answered.", exc_info=error)


class Blocks(gr.Blocks):
    """A page whose events answer malformed values with a sentence, where Gradio would list its components."""

    async def preprocess_data(self, block_fn: Any, *args: Any, **kwargs: Any) -> list[Any]:
        """Convert the inputs of an event: missing text becomes empty text, and a missing file is refused."""
        values = await super().preprocess_data(block_fn, *args, **kwargs)
        for index, (block, value) in enumerate(zip(block_fn.inputs, values, strict=False)):
            if value is None and isinstance(block, gr.UploadButton):
                raise gr.Error("Choose a file first.", print_exception=False)
            if value is None and isinstance(block, gr.Textbox):
                values[index] = ""
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
