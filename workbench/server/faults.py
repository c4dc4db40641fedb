"""What happens when answering a request raises an exception.

Gradio takes any JSON and finds out while it works with it that a value is missing or of another type. So an exception
that is raised before code of ours is called is a fault of the request: the client gets one sentence and the log gets
nothing, for otherwise any client could fill it. All others are faults of the program and are logged, also those that
are raised while Gradio converts what code of ours has returned.
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
    """A function of ours returned what a component cannot show."""


def is_of_the_request(error: BaseException) -> bool:
    """Whether an exception tells that a request was malformed: it was raised before any code of ours was called."""
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
    """The answer to a request whose handling raised ``error``. For Starlette, which raises the error again after it."""
    if is_of_the_request(error):
        return PlainTextResponse(SENTENCE, 400)
    return PlainTextResponse("The app has made a mistake; its log tells more.", 500)


def record(error: Exception) -> None:
    """Log an exception that `answer` has answered, unless the request was at fault."""
    if is_of_the_request(error):
        _log.debug("A request was malformed.", exc_info=error)
    else:
        _log.error("A request was not answered.", exc_info=error)


class Blocks(gr.Blocks):
    """A page whose events answer malformed values with a sentence, where Gradio lists its components."""

    async def preprocess_data(self, block_fn: Any, *args: Any, **kwargs: Any) -> list[Any]:
        """The values of an event for its function: a missing text is an empty one, and a missing file is refused."""
        values = await super().preprocess_data(block_fn, *args, **kwargs)
        for index, (block, value) in enumerate(zip(block_fn.inputs, values, strict=False)):
            if value is None and isinstance(block, gr.UploadButton):
                raise gr.Error("Choose a file first.", print_exception=False)
            if value is None and isinstance(block, gr.Textbox):
                values[index] = ""
        return values

    async def postprocess_data(self, block_fn: Any, *args: Any, **kwargs: Any) -> list[Any]:
        """What a function returned, for the page. Raises `OutputError` where a component refuses it."""
        try:
            return await super().postprocess_data(block_fn, *args, **kwargs)
        except (InputError, gr.Error):
            raise
        except Exception as error:
            raise OutputError(f"The output of {block_fn.name} cannot be shown: {error}") from error

    async def process_api(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Answer an event; raises `gr.Error` with one sentence for values that cannot be used."""
        try:
            return await super().process_api(*args, **kwargs)
        except InputError as error:
            raise gr.Error(str(error), print_exception=False) from error
        except gr.Error as error:  # also from Gradio's components, about a value that is not among the choices
            error.print_exception = False
            raise
        except Exception as error:
            if not is_of_the_request(error):
                raise
            raise gr.Error(SENTENCE, print_exception=False) from error
