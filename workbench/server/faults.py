"""Handling of exceptions that are raised while a request is answered.

Gradio accepts any JSON and fails later if a value is missing or has the wrong type. An exception raised before our code
is called is therefore caused by the request: the client gets one sentence, and nothing is logged as an error, because
otherwise any client could fill the log. All other exceptions are faults of the program and are logged, including those
raised while Gradio converts the output of our code.
"""

import logging
from pathlib import Path

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

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
