"""An NDIF client: that of nnsight, but requests time out and can be stopped, and responses are never unpickled."""

import io
import threading
import time
from concurrent.futures import Future
from typing import Any

import torch
from nnsight.intervention.backends.remote import RemoteBackend
from nnsight.schema.request import RequestModel
from nnsight.schema.response import ResponseModel, Status

from jola.errors import InputError
from jola.system.formatting import error_words
from jola.system.ndif import api_key, host

REQUEST_SECONDS = 3600.0
"""Default time limit of a request: NDIF may have to load the model first."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0


class RequestStopped(Exception):
    """The caller ended the request before NDIF answered."""


class NdifBackend(RemoteBackend):
    """Submits a trace to NDIF and polls for its result.

    Results are always downloaded as tensors. With nnsight's default, a websocket, a result may also arrive as a pickled
    message, which this client refuses to read.

    Args:
        model_key: Key of the model on the server.
        env: Environment that nnsight sends with each request to the model.
        stop: When set, the request ends with `RequestStopped`; the server may still compute it.
        seconds: Time limit; after it, the request ends with `InputError`.
    """

    def __init__(
        self,
        model_key: str,
        env: dict[str, Any],
        *,
        stop: threading.Event | None = None,
        seconds: float = REQUEST_SECONDS,
    ) -> None:
        super().__init__(model_key, host=host(), api_key=api_key(), env=env, blocking=False)
        self.compress = False
        self.display.enabled = False
        self._stop = stop or threading.Event()
        self._seconds = seconds

    def __call__(self, tracer: Any = None) -> Any:
        """Send the trace and push its saved values into the frame that contains it.

        Raises:
            InputError: NDIF refused the request, failed, or took too long.
            RequestStopped: `stop` was set.
        """
        try:
            result = self._wait_for(self._serialize(tracer))
        except (InputError, RequestStopped):
            raise
        except Exception as error:  # errors of the server and of httpx
            raise InputError(
                f"NDIF did not answer the request ({error_words(error)}); check the key, whether NDIF hosts this model "
                "(https://nnsight.net/status), and the network."
            ) from error
        self._push(result, tracer)
        return result

    def exchange(self, request: bytes, over: threading.Event) -> Any:
        """Send a serialized trace and poll for its result; `RequestStopped` if ``over`` is set first."""
        envelope = RequestModel(model_key=self.model_key, compress=self.compress, env=self.env)
        response = self._post(envelope, request)
        self.note(response)
        self.job_id, pause = response.id, _FIRST_PAUSE
        while not over.wait(pause):
            result = self.poll()
            if result is not None:
                return result
            if self.status == Status.COMPLETED:
                raise InputError("NDIF completed the request without a result; send it again.")
            pause = min(1.5 * pause, _LONGEST_PAUSE)
        raise RequestStopped

    def _wait_for(self, request: bytes) -> Any:
        # In a separate thread, because a connection cannot be interrupted.
        answer: Future[Any] = Future()
        over, ready = threading.Event(), threading.Event()

        def work() -> None:
            try:
                answer.set_result(self.exchange(request, over))
            except BaseException as error:
                answer.set_exception(error)
            ready.set()

        threading.Thread(target=work, name="ndif", daemon=True).start()
        end = time.monotonic() + self._seconds
        try:
            while not ready.wait(0.05):
                if self._stop.is_set():
                    raise RequestStopped
                if time.monotonic() > end:
                    raise InputError(
                        f"NDIF did not answer within {self._seconds:g} seconds; check at https://nnsight.net/status "
                        "whether the model is running, and try again."
                    )
        finally:
            over.set()
        return answer.result()

    @staticmethod
    def parse(message: str | bytes) -> ResponseModel:
        """Parse a status from JSON. `InputError` for a binary message, which is a pickle."""
        if not isinstance(message, str):
            raise InputError("NDIF sent a pickled message, which could run code here; it was not read.")
        return ResponseModel.model_validate_json(message)

    def finalize(self, content: bytes) -> Any:
        """The saved tensors by name."""
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
