"""Edited generation: at every token, streamed, in padded batches, from many threads, and without leaks."""

import gc
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor
from transformers import TextIteratorStreamer
from transformers.generation.streamers import BaseStreamer

from jola.config import EditConfig
from jola.errors import InputError
from jola.jola_model import JoLAModel
from tests.jola.model.passes import (
    ARCHITECTURES,
    BATCH,
    CLOSE,
    OfThePrompt,
    by_hand,
    every_architecture,
    greedy,
    logits_of,
    padded,
    random_masks,
    row_of,
)
from tests.tiny import make_model

Make = Callable[..., JoLAModel]


class TestGeneration:
    @every_architecture
    @torch.no_grad()
    def test_every_new_token_is_edited(self, tiny: Make, architecture: str) -> None:
        model, plain = tiny(architecture, EditConfig(sites="both")), make_model(architecture)
        answer = greedy(model, BATCH, 6, output_logits=True, return_dict_in_generate=True)
        steps = torch.stack(answer.logits, 1)
        ids = BATCH
        for _ in range(6):
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
        assert torch.equal(answer.sequences, ids)
        full = model(ids).logits[:, BATCH.shape[1] - 1 : -1]
        torch.testing.assert_close(steps, full, rtol=0, atol=3e-5)
        torch.testing.assert_close(full, logits_of(plain, ids, by_hand(model))[:, BATCH.shape[1] - 1 : -1], **CLOSE)
        # Editing only the prompt, as a wrong loop would, gives other logits.
        prompt_only = {site: OfThePrompt(edits) for site, edits in by_hand(model).items()}
        other = logits_of(plain, ids, prompt_only)[:, BATCH.shape[1] - 1 : -1]
        torch.testing.assert_close(other[:, 0], full[:, 0], **CLOSE)
        assert ((other - full)[:, 1:].abs().amax((0, 2)) > 1e-2).all()

    @every_architecture
    @torch.no_grad()
    def test_batched_and_padded_is_one_by_one(self, tiny: Make, architecture: str) -> None:
        model = tiny(architecture, EditConfig(sites="both"))
        ids, attention, rows = padded("left")
        together = greedy(model, ids, 7, attention_mask=attention)
        for i, row in enumerate(rows):
            assert torch.equal(together[i, ids.shape[1] :], greedy(model, row[None], 7)[0, len(row) :])

    @every_architecture
    @torch.no_grad()
    def test_rows_with_their_own_masks(self, tiny: Make, architecture: str) -> None:
        model = tiny(architecture, EditConfig(sites="both"))
        ids, attention, rows = padded("left")
        masks = random_masks(model, len(rows))
        together = greedy(model, ids, 7, attention_mask=attention, mask=masks)
        for i, row in enumerate(rows):
            alone = greedy(model, row[None], 7, mask=row_of(masks, i))
            assert torch.equal(together[i, ids.shape[1] :], alone[0, len(row) :])

    @pytest.mark.parametrize("architecture", ["llama", "opt"])
    @torch.no_grad()
    def test_beams_keep_the_mask_of_their_row(self, tiny: Make, architecture: str) -> None:
        model = tiny(architecture, EditConfig(sites="both"))
        masks = random_masks(model, len(BATCH))
        together = greedy(model, BATCH, 5, mask=masks, num_beams=3)
        alone = [greedy(model, BATCH[i : i + 1], 5, mask=row_of(masks, i), num_beams=3) for i in range(len(BATCH))]
        assert torch.equal(together, torch.cat(alone))
        assert not torch.equal(together, greedy(model, BATCH, 5, num_beams=3))

    @torch.no_grad()
    def test_stops_at_the_end_token_and_fills_up(self, tiny: Make) -> None:
        model = tiny("llama")
        free = greedy(model, BATCH, 8)
        end = int(free[0, BATCH.shape[1] + 2])
        stopped = greedy(model, BATCH[:1], 8, eos_token_id=end)
        assert stopped[0].tolist() == free[0, : stopped.shape[1]].tolist()
        assert int(stopped[0, -1]) == end and stopped.shape[1] <= BATCH.shape[1] + 3
        both = greedy(model, BATCH, 8, eos_token_id=end)
        rest = both[0, stopped.shape[1] :].tolist()
        assert rest == [model.tokenizer.pad_token_id] * len(rest)

    @torch.no_grad()
    def test_one_token_and_no_warning(self, tiny: Make, recwarn: pytest.WarningsRecorder) -> None:
        model = tiny("llama")
        assert torch.equal(greedy(model, BATCH, 1)[:, -1], model(BATCH).logits[:, -1].argmax(-1))
        assert not [w for w in recwarn if "tracer" in str(w.message)]

    @torch.no_grad()
    def test_the_head_gets_a_batch_without_gaps(self, tiny: Make) -> None:
        # On a CPU, PyTorch copies the weight of a linear layer for every row of a 3-D slice.
        model = tiny("llama")
        head, seen = model.base.get_output_embeddings(), []
        with head.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].is_contiguous())):
            greedy(model, BATCH, 3)
            with model.disable_edits():
                greedy(model, BATCH, 3)
        assert len(BATCH) > 1 and seen == [True] * 6
        assert not head._forward_pre_hooks

    def test_the_cache_is_used_even_if_the_configuration_switches_it_off(self, tiny: Make) -> None:
        model, widths = tiny("llama"), []
        expected = greedy(model, BATCH, 4)
        model.base.generation_config.use_cache = False
        hook = model.base.get_input_embeddings().register_forward_hook(
            lambda module, inputs, output: widths.append(inputs[0].shape[1])
        )
        with hook:
            assert torch.equal(greedy(model, BATCH, 4), expected)
        assert widths == [BATCH.shape[1], 1, 1, 1]

    @pytest.mark.parametrize("most", [{"max_new_tokens": 300}, {"max_length": 300}])
    def test_more_tokens_than_positions_are_refused(self, tiny: Make, most: dict[str, int]) -> None:
        model = tiny("gpt2")
        with pytest.raises(InputError, match=r"with an answer of up to .* is too long for this gpt2 model"):
            model.generate(BATCH, do_sample=False, **most)

    def test_sampling_is_as_random_as_transformers(self, tiny: Make) -> None:
        model = tiny("llama")

        def draw(seed: int) -> Tensor:
            torch.manual_seed(seed)
            return model.generate(BATCH, max_new_tokens=6, do_sample=True)

        assert torch.equal(draw(0), draw(0))
        assert not torch.equal(draw(0), draw(1))


class TestStreaming:
    def test_a_text_streamer_in_a_thread(self, tiny: Make) -> None:
        model = tiny("llama")
        expected = model.tokenizer.decode(greedy(model, BATCH[:1], 12)[0, BATCH.shape[1] :])
        streamer = TextIteratorStreamer(model.tokenizer, skip_prompt=True, timeout=300)
        arguments = {"max_new_tokens": 12, "do_sample": False, "streamer": streamer}
        thread = threading.Thread(target=model.generate, args=(BATCH[:1],), kwargs=arguments)
        thread.start()
        pieces = list(streamer)
        thread.join()
        assert "".join(pieces) == expected
        assert len(pieces) > 2

    def test_a_streamer_sees_each_token_when_it_is_made(self, tiny: Make) -> None:
        class Collector(BaseStreamer):
            def __init__(self) -> None:
                self.pieces: list[list[int]] = []
                self.ended = 0

            def put(self, value: Tensor) -> None:
                self.pieces.append(value.flatten().tolist())

            def end(self) -> None:
                self.ended += 1

        model, collector = tiny("llama"), Collector()
        tokens = greedy(model, BATCH[:1], 5, streamer=collector)[0].tolist()
        prompt, *new = collector.pieces
        assert prompt == BATCH[0].tolist()
        assert new == [[token] for token in tokens[len(prompt) :]]
        assert collector.ended == 1

    def test_an_error_in_a_streamer_comes_out_and_breaks_nothing(self, tiny: Make) -> None:
        class Broken(BaseStreamer):
            def put(self, value: Tensor) -> None:
                if value.numel() == 1:
                    raise ConnectionError("the reader is gone")

            def end(self) -> None:
                pass

        model = tiny("llama")
        expected = greedy(model, BATCH[:1])
        with pytest.raises(ConnectionError, match="the reader is gone"):
            greedy(model, BATCH[:1], streamer=Broken())
        assert torch.equal(greedy(model, BATCH[:1]), expected)
        assert model.lock.acquire(blocking=False)
        model.lock.release()


class TestPadding:
    @pytest.mark.parametrize("side", ["left", "right"])
    @pytest.mark.parametrize(
        ("architecture", "attention"),
        [(a, kind) for a in ARCHITECTURES for kind in ("eager", "sdpa") if (a, kind) != ("gemma2", "sdpa")],
    )
    @torch.no_grad()
    def test_forward_is_one_by_one(self, tiny: Make, architecture: str, side: str, attention: str) -> None:
        model = tiny(architecture, EditConfig(sites="both"))
        if model.base.config._attn_implementation != attention:
            model.base.set_attn_implementation(attention)
        ids, real, rows = padded(side)
        for strength in (1.0, 0.0):  # with nothing to edit, the pass takes another path
            together = model(ids, real, strength=strength).logits
            assert bool(torch.isfinite(together).all())
            for i, row in enumerate(rows):
                alone = model(row[None], strength=strength).logits[0]
                torch.testing.assert_close(together[i][real[i] == 1], alone, **CLOSE)

    @every_architecture
    @pytest.mark.parametrize("side", ["left", "right"])
    @torch.no_grad()
    def test_rows_with_their_own_masks(self, tiny: Make, architecture: str, side: str) -> None:
        model = tiny(architecture, EditConfig(sites="both"))
        ids, real, rows = padded(side)
        masks = random_masks(model, len(rows))
        together = model(ids, real, mask=masks).logits
        for i, row in enumerate(rows):
            alone = model(row[None], mask=row_of(masks, i)).logits[0]
            torch.testing.assert_close(together[i][real[i] == 1], alone, **CLOSE)
        assert (together - model(ids, real).logits).abs().max() > 0.01


class TestThreads:
    def test_eight_users_of_one_model(self, tiny: Make) -> None:
        model = tiny("llama", EditConfig(sites="both"))
        masks = [random_masks(model, seed=seed) for seed in range(8)]

        @torch.no_grad()
        def ask(user: int, call: int) -> Tensor:
            if call % 2:
                return greedy(model, BATCH[:1], 4, mask=masks[user])
            return model(BATCH, mask=masks[user]).logits

        expected = [[ask(user, call) for call in range(2)] for user in range(8)]
        assert not torch.equal(expected[0][0], expected[1][0])
        together = threading.Barrier(8)

        def use(user: int) -> list[Tensor]:
            together.wait(300)
            return [ask(user, call) for call in range(6)]

        with ThreadPoolExecutor(8) as pool:
            for user, answers in enumerate(pool.map(use, range(8))):
                for call, answer in enumerate(answers):
                    assert torch.equal(answer, expected[user][call % 2])

    @torch.no_grad()
    def test_disabling_is_for_the_own_thread(self, tiny: Make) -> None:
        model = tiny("llama")
        edited, plain = model(BATCH).logits, logits_of(make_model("llama"))
        inside, outside = threading.Event(), threading.Event()

        @torch.no_grad()
        def look() -> Tensor:
            with model.disable_edits():
                inside.set()
                outside.wait(300)
                return model(BATCH).logits

        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(look)
            assert inside.wait(300)
            with model.disable_edits():  # entered second, left first
                pass
            found = model(BATCH).logits
            outside.set()
            assert torch.equal(other.result(300), plain)
        assert torch.equal(found, edited)
        assert torch.equal(model(BATCH).logits, edited)


class TestMemory:
    @staticmethod
    def tensors() -> int:
        gc.collect()
        return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())

    def test_passes_leave_no_tensors(self, tiny: Make) -> None:
        model = tiny("llama", EditConfig(sites="both"))
        labels = BATCH.masked_fill(torch.arange(BATCH.shape[1]) < 7, -100)

        def work(passes: int) -> None:
            for _ in range(passes):
                model(BATCH)
            for _ in range(passes // 5):
                model.train()(BATCH, labels=labels).loss.backward()
                model.eval()
            greedy(model, BATCH, passes // 5)

        work(5)
        before = self.tensors()
        work(100)
        assert self.tensors() <= before

    def test_a_pass_can_be_collected_as_soon_as_its_answer_is_gone(self, tiny: Make) -> None:
        model = tiny("llama")
        model(BATCH)
        before = self.tensors()
        answer = model(BATCH).logits
        assert self.tensors() > before
        del answer
        assert self.tensors() <= before
