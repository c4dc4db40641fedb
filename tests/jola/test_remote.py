"""Remote models compared with local ones; requests run in nnsight's simulation and in a process without our code."""

import io
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnsight.intervention.backends.remote import RemoteError
from nnsight.intervention.serialization import CustomCloudUnpickler
from nnsight.schema.request import RequestModel
from nnsight.schema.response import ResponseModel, Status
from transformers import StoppingCriteriaList, TextStreamer

from jola import insight
from jola.data.examples import Example, Message, Template
from jola.edits.intervention import EditMask
from jola.errors import InputError
from jola.evaluation.answering import answer_examples
from jola.jola_model import JoLAModel
from jola.model.ndif import NdifBackend
from jola.remote import RemoteModel, RequestStopped
from jola.system.ndif import HOST_VARIABLE, KEY_VARIABLE, privacy, require_key
from tests.methods.contract import ARCHITECTURES, CASES, case_of, trained
from tests.tiny import make_model, make_tokenizer

AFFINE = ("jola", "red", "lofit", "repe")
IDS = [5, 9, 17, 33, 8, 21, 40]
BATCH = torch.tensor([IDS, [0, 0, 28, 64, 90, 11, 2]])
MASK = torch.tensor([[1] * 7, [0, 0, 1, 1, 1, 1, 1]])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that returns the folder of a tiny model, which is created once."""
    folder = tmp_path_factory.mktemp("models")

    def saved(architecture: str) -> Path:
        place = folder / architecture
        if not place.is_dir():
            make_model(architecture).save_pretrained(place)
            make_tokenizer().save_pretrained(place)
        return place

    return saved


@pytest.fixture
def pair(models: Callable[[str], Path], tmp_path: Path) -> Callable[..., tuple[JoLAModel, RemoteModel]]:
    """A function that returns (local, remote) with the same edits."""

    def make(method: str = "jola", architecture: str = "llama") -> tuple[JoLAModel, RemoteModel]:
        local = trained(case_of(method), architecture)
        local.save_pretrained(tmp_path / "adapter")
        return local, RemoteModel.from_adapter(tmp_path / "adapter", model=str(models(architecture)), simulate=True)

    return make


def use_all(model: JoLAModel | RemoteModel) -> list[Any]:
    """Return everything that a remote model computes."""
    template = Template(model.tokenizer)
    text = insight.next_tokens(model, IDS, 5, template=template)
    scores = insight.answer_scores(model, IDS, ["good", "bad one"], template=template)
    lens = (model.logit_lens if isinstance(model, RemoteModel) else lambda *a, **k: insight.logit_lens(model, *a, **k))(
        IDS, 4, last=3
    )
    examples = [
        Example((Message("user", words),), "good", options=("good", "bad one"))
        for words in ("A film.", "Is this a fine, warm film?")
    ]
    answers = answer_examples(model, examples, template, options=True, max_new_tokens=5)
    return [
        model(BATCH, MASK).logits[MASK.bool()],
        model(BATCH, MASK, positions="last", strength=0.5).logits,
        model.generate(BATCH, MASK, max_new_tokens=5, do_sample=False).float(),
        torch.tensor([(t.id, t.base, t.edited) for t in text.tokens]),
        torch.from_numpy(np.concatenate([scores.base, scores.edited])),
        torch.tensor(lens.to_frame()[["layers_run", "position", "rank", "id", "probability", "kl_nats"]].to_numpy()),
        [(answer.answer, answer.example.options) for answer in answers],
        torch.tensor([answer.log_likelihoods for answer in answers]),
    ]


def assert_same(found: list[Any], expected: list[Any]) -> None:
    for one, other in zip(found, expected, strict=True):
        if isinstance(one, torch.Tensor):
            torch.testing.assert_close(one, other, rtol=0, atol=2e-4)
        else:
            assert one == other


@pytest.mark.parametrize(
    ("method", "architecture"),
    [("jola", each) for each in ARCHITECTURES] + [(each, "llama") for each in AFFINE if each != "jola"],
)
def test_equals_the_local_model(pair: Any, method: str, architecture: str) -> None:
    local, remote = pair(method, architecture)
    with torch.no_grad():
        assert_same(use_all(remote), use_all(local))
        base = make_model(architecture)(BATCH[:1]).logits
        assert not torch.allclose(remote(BATCH[:1]).logits, base, atol=1e-3)
        with remote.disable_edits():
            torch.testing.assert_close(remote(BATCH[:1]).logits, base, rtol=0, atol=1e-5)
            plain = remote.generate(BATCH[:1], max_new_tokens=5, do_sample=False)
        assert torch.equal(plain, make_model(architecture).generate(BATCH[:1], max_new_tokens=5, do_sample=False))  # pyright: ignore[reportCallIssue]


def test_a_streamer_gets_the_answer(pair: Any) -> None:
    _, remote = pair()
    said: list[str] = []

    class Collector(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            said.append(text)

    never = StoppingCriteriaList([lambda ids, scores, **_: torch.ones(len(ids), dtype=torch.bool)])
    collector = Collector(remote.tokenizer, skip_prompt=True)
    tokens = remote.generate(BATCH[:1], max_new_tokens=4, streamer=collector, stopping_criteria=never)
    assert tokens.shape == (1, 11)
    assert "".join(said) == remote.tokenizer.decode(tokens[0, 7:])


def test_masks_and_beams(pair: Any) -> None:
    local, remote = pair()
    first, second = local.own_interventions()
    masks = [EditMask.all(first).map(lambda each: each * 0.3), EditMask.none(second)]
    with torch.no_grad():
        torch.testing.assert_close(
            remote(BATCH, MASK, mask=masks).logits[MASK.bool()], local(BATCH, MASK, mask=masks).logits[MASK.bool()]
        )
    beams = {"max_new_tokens": 4, "num_beams": 3, "do_sample": False}
    assert torch.equal(remote.generate(BATCH, MASK, **beams), local.generate(BATCH, MASK, **beams))


SERVER = """
import io, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("jola", "workbench", "tests"):
            raise ModuleNotFoundError(f"the server has no {name}", name=name)

sys.meta_path.insert(0, Absent())
import nnsight, torch
from nnsight.schema.request import RequestModel
from nnsight.schema.response import ResponseModel, Status
from nnsight.tracing import tracer as scope
from nnsight.tracing.globals import BLOCKS, SOURCES

folder, *requests = sys.argv[1:]
model = nnsight.TransformersModel(folder, task="text-generation", dispatch=True, attn_implementation="sdpa")
for place in requests:
    with open(place, "rb") as file:
        request = RequestModel.deserialize(file.read(), model._remoteable_persistent_objects())
    scope.inc()
    request.execute(request.info.code)
    saved = {name: value for name, value in request.info.frame.f_locals.items() if id(value) in scope._saves()}
    scope.dec()
    # As NDIF does: the source of a file is that of one request.
    BLOCKS.clear(), SOURCES.clear()
    torch.save(saved, place + ".result")
assert not [name for name in sys.modules if name.partition(".")[0] in ("jola", "workbench", "tests")]
"""


class Recorder(CustomCloudUnpickler):
    """Records every module that a request names."""

    seen: set[str]

    def find_class(self, module: str, name: str) -> Any:
        self.seen.add(module)
        return super().find_class(module, name)


def test_a_request_needs_none_of_our_code(
    pair: Any, models: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, remote = pair("jola", "llama")
    sent: list[bytes] = []
    serialize = RequestModel.serialize

    def keep(tracer: Any, compress: bool = False) -> bytes:
        sent.append(serialize(tracer, compress=compress))
        return sent[-1]

    monkeypatch.setattr(RequestModel, "serialize", keep)
    expected = use_all(remote)
    assert len(sent) > 8

    Recorder.seen = set()
    for request in sent:
        RequestModel.deserialize(request, remote.traced._nn._remoteable_persistent_objects(), unpickler=Recorder)
    ours = {name.partition(".")[0] for name in Recorder.seen} & {"jola", "workbench", "tests"}
    assert "nnsight" in {name.partition(".")[0] for name in Recorder.seen}
    assert not ours

    requests = [tmp_path / f"request{number}" for number in range(len(sent))]
    for path, request in zip(requests, sent, strict=True):
        path.write_bytes(request)
    subprocess.run(
        [sys.executable, "-P", "-c", SERVER, models("llama"), *requests], check=True, cwd=tmp_path, timeout=300
    )

    # Return the answers of that process as those of NDIF.
    answers = iter(requests)

    class Elsewhere(NdifBackend):
        def exchange(self, request: bytes, over: threading.Event) -> Any:
            assert request == sent[-1]
            return self.finalize(Path(f"{next(answers)}.result").read_bytes())

    monkeypatch.setattr(remote.traced, "_backend", lambda: Elsewhere("a model", {}))
    assert_same(use_all(remote), expected)


class TestRefusals:
    def adapter(self, method: str, folder: Path) -> Path:
        trained(case_of(method), "llama").save_pretrained(folder)
        return folder

    @pytest.mark.parametrize("method", [case.method for case in CASES if case.method not in AFFINE])
    def test_edits_that_are_not_affine(self, method: str, tmp_path: Path, models: Any) -> None:
        with pytest.raises(InputError, match=r"cannot be used remotely, because .*; load the model locally"):
            RemoteModel.from_adapter(self.adapter(method, tmp_path / "a"), model=str(models("llama")), simulate=True)

    def test_no_key(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(KEY_VARIABLE, raising=False)
        with pytest.raises(InputError, match=r"API key of NDIF; get one at https://ndif.us and set NDIF_API_KEY"):
            RemoteModel.from_adapter(self.adapter("jola", tmp_path / "a"), model="owner/name")

    @pytest.mark.parametrize("name", ["default", "smollm2-135m-instruct", "here"])
    def test_a_model_that_is_not_on_the_hub(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: Any
    ) -> None:
        monkeypatch.setenv(KEY_VARIABLE, "a key")
        name = str(models("llama")) if name == "here" else name
        with pytest.raises(InputError, match=r"which is not a model on the Hub; .* --model owner/name\."):
            RemoteModel.from_adapter(self.adapter("jola", tmp_path / "a"), model=name)

    def test_another_shape(self, tmp_path: Path, models: Any) -> None:
        with pytest.raises(InputError, match="was trained on tiny-llama with architecture llama"):
            RemoteModel.from_adapter(self.adapter("jola", tmp_path / "a"), model=str(models("gpt2")), simulate=True)

    def test_what_is_not_read_and_training(self, pair: Any) -> None:
        _, remote = pair()
        with pytest.raises(InputError, match="which are not available from a remote model"):
            insight.layer_changes(remote, [IDS])
        with pytest.raises(InputError, match="cannot be trained"):
            remote.train()

    def test_the_hub_and_the_server_fail(self, pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        _, remote = pair()
        monkeypatch.setattr(remote.traced, "_simulate", False)

        def offline() -> str:
            raise ConnectionError("no route")

        monkeypatch.setattr(remote.traced._nn, "to_model_key", offline)
        with pytest.raises(InputError, match=r"cannot be found on the Hub \(no route\); check"):
            remote(BATCH, MASK)

        def refuse(*_: Any) -> None:
            raise RemoteError("the key is not valid.")

        monkeypatch.setattr(remote.traced._nn, "to_model_key", lambda: "a model")
        monkeypatch.setattr(NdifBackend, "_post", refuse)
        with pytest.raises(InputError, match=r"NDIF did not answer the request \(the key is not valid\); check"):
            remote(BATCH, MASK)
        with pytest.raises(InputError, match="NDIF did not answer"):
            remote.logit_lens(IDS)

    def test_an_answer_that_would_run_code(self) -> None:
        evil = io.BytesIO()
        torch.save({"logits": print}, evil)
        with pytest.raises(Exception, match=r"[Ww]eights.only"):
            NdifBackend("a model", {}).finalize(evil.getvalue())

    def test_a_message_that_would_run_code(self, tmp_path: Path) -> None:
        class Evil:
            def __reduce__(self) -> Any:
                return Path.touch, (tmp_path / "ran",)

        message = ResponseModel(id="1", status=Status.COMPLETED, data=Evil()).pickle()
        with pytest.raises(InputError, match="NDIF sent a pickled message"):
            NdifBackend("a model", {}).parse(message)
        assert not (tmp_path / "ran").exists()
        ResponseModel.unpickle(message)
        assert (tmp_path / "ran").exists(), "the message is harmless, so this test shows nothing"

    def test_an_address_that_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(KEY_VARIABLE, "a key")
        monkeypatch.setenv(HOST_VARIABLE, "ftp://example.org")
        with pytest.raises(InputError, match="NDIF_HOST must begin with https"):
            require_key()

    def test_the_configuration_cannot_be_read(
        self, tmp_path: Path, models: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def limited(*_: Any, **__: Any) -> None:
            raise OSError("429 Client Error: Too Many Requests")

        monkeypatch.setattr("nnsight.TransformersModel", limited)
        with pytest.raises(InputError, match=r"cannot be found on the Hub \(429 Client Error"):
            RemoteModel.from_adapter(self.adapter("jola", tmp_path / "a"), model=str(models("llama")), simulate=True)


class FakeNdif(ThreadingHTTPServer):
    """Answers each poll with the next of `answers`, and repeats the last one."""

    daemon_threads = True
    answers: list[dict[str, Any] | None]
    keys: list[str | None]
    result: bytes

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: FakeNdif

    def reply(self, status: int, content: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.keys.append(self.headers.get("ndif-api-key"))
        self.reply(200, b'{"id": "7", "status": "RECEIVED"}')

    def do_GET(self) -> None:
        if self.path == "/result":
            self.reply(200, self.server.result)
            return
        assert self.path == "/response/7"
        self.server.keys.append(self.headers.get("ndif-api-key"))
        answers = self.server.answers
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        self.reply(404) if answer is None else self.reply(200, json.dumps({"id": "7", **answer}).encode())

    def log_message(self, *_: Any) -> None:
        """Do nothing."""


class TestRequests:
    """Requests to a server in this process that nnsight's client accepts."""

    @pytest.fixture
    def server(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNdif]:
        server = FakeNdif(("127.0.0.1", 0), Handler)
        server.keys, server.answers = [], [None]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        # Set after the import of nnsight, which reads the variables once.
        monkeypatch.setenv(KEY_VARIABLE, "this key")
        monkeypatch.setenv(HOST_VARIABLE, server.address)
        yield server
        server.shutdown()
        server.server_close()
        thread.join()

    @pytest.fixture
    def remote(self, pair: Any, monkeypatch: pytest.MonkeyPatch) -> RemoteModel:
        _, remote = pair()
        monkeypatch.setattr(remote.traced, "_simulate", False)
        monkeypatch.setattr(remote.traced._nn, "to_model_key", lambda: "a model")
        return remote

    def test_the_result_is_polled_for(self, server: FakeNdif, remote: RemoteModel) -> None:
        expected, content = torch.randn(2, 7, 11), io.BytesIO()
        torch.save({"logits": expected}, content)
        server.result = content.getvalue()
        server.answers = [None, {"status": "QUEUED"}, {"status": "COMPLETED", "data": f"{server.address}/result"}]
        assert torch.equal(remote(BATCH, MASK).logits, expected)
        assert server.keys == ["this key"] * 4
        assert f"sent to NDIF at {server.address}, which" in privacy()

    @pytest.mark.parametrize(
        ("answer", "sentence"),
        [
            ({"status": "ERROR", "description": "CUDA out of memory."}, r"\(CUDA out of memory\)"),
            ({"status": "COMPLETED"}, "completed the request without a result"),
            ({"status": "COMPLETED", "data": "/nowhere"}, "did not answer the request"),
            ({"status": "no such"}, "did not answer the request"),
        ],
    )
    def test_a_failure_is_one_sentence(
        self, server: FakeNdif, remote: RemoteModel, answer: dict[str, Any], sentence: str
    ) -> None:
        server.answers = [answer]
        with pytest.raises(InputError, match=sentence):
            remote(BATCH, MASK)

    def test_a_result_that_would_run_code(self, server: FakeNdif, remote: RemoteModel) -> None:
        content = io.BytesIO()
        torch.save({"logits": print}, content)
        server.result = content.getvalue()
        server.answers = [{"status": "COMPLETED", "data": f"{server.address}/result"}]
        with pytest.raises(InputError, match=r"[Ww]eights.only"):
            remote(BATCH, MASK)

    def test_a_request_that_never_ends_is_ended(self, server: FakeNdif, remote: RemoteModel) -> None:
        server.answers = [{"status": "RUNNING"}]
        stop = threading.Event()
        with pytest.raises(InputError, match=r"did not answer within 0\.2 seconds"), remote.until(stop, 0.2):
            remote(BATCH, MASK)
        stop.set()
        with pytest.raises(RequestStopped), remote.until(stop, 600):
            remote.generate(BATCH, MASK, max_new_tokens=3)
