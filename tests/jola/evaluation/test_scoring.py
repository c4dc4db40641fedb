"""Accuracy with its interval, exact match by generation, and choice of the most likely option."""

import string
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from jola.data.examples import Example, Message, Template
from jola.edits.intervention import EditMask
from jola.errors import InputError
from jola.evaluation.scoring import Accuracy, exact_match, option_likelihood
from jola.jola_model import JoLAModel

CHAT = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}<end>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(scope="module")
def letters() -> PreTrainedTokenizerFast:
    """A tokenizer with one token per character, so that lengths are easy to count."""
    special = ["<pad>", "<unk>", "<eos>", "<end>"]
    vocabulary = {token: index for index, token in enumerate([*special, *string.printable])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<eos>",
        additional_special_tokens=["<end>"],
        chat_template=CHAT,
    )


@pytest.fixture(scope="module")
def template(letters: PreTrainedTokenizerFast) -> Template:
    return Template(letters)


def example(question: str, answer: str, *references: str) -> Example:
    return Example((Message("user", question),), answer, references)


class Parrot(nn.Module):
    """A model that answers prompts by a rule and records the arguments of each call."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, rule: Callable[[str], str]) -> None:
        super().__init__()
        self.tokenizer, self.rule = tokenizer, rule
        self.calls: list[dict[str, object]] = []

    def generate(self, input_ids: Tensor, attention_mask: Tensor, **arguments: object) -> Tensor:
        self.calls.append(
            {
                **arguments,
                "shape": input_ids.shape,
                "training": self.training,
                "gradients": torch.is_grad_enabled(),
            }
        )
        limit, pad = arguments["max_new_tokens"], arguments["pad_token_id"]
        assert isinstance(limit, int)
        rows = []
        for ids, real in zip(input_ids, attention_mask.bool(), strict=True):
            assert real[-1], "prompts are padded on the left"
            prompt = self.tokenizer.decode(ids[real], skip_special_tokens=False)
            question = prompt.removeprefix("[user]").removesuffix("<end>[assistant]")
            rows.append(self.tokenizer(self.rule(question), add_special_tokens=False)["input_ids"][:limit])
        width = max(map(len, rows))
        new = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
        return torch.cat([input_ids, new], dim=1)


class Memory(nn.Module):
    """A language model whose next token depends on all tokens before it: logits are a running sum of rows."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(size, size, generator=torch.Generator().manual_seed(0)))
        self.batches: list[tuple[int, ...]] = []
        self.modes: list[tuple[bool, bool]] = []

    def scores(self, input_ids: Tensor) -> Tensor:
        return self.table[input_ids].cumsum(-2)

    def answer_log_likelihoods(
        self, prompts: list[list[int]], answers: list[tuple[int, list[int]]], *, mask: object = None
    ) -> Tensor:
        self.batches.append((len(prompts), len(answers)))
        self.modes.append((self.training, torch.is_grad_enabled()))
        scores = [self.scores(torch.tensor([*prompts[row], *ids]))[-len(ids) - 1 : -1] for row, ids in answers]
        each = zip(scores, answers, strict=True)
        return torch.stack([s.log_softmax(-1)[range(len(ids)), ids].sum() for s, (_, ids) in each])


class TestAccuracy:
    def test_known_interval(self) -> None:
        # Wilson (1927) for 8 of 10, worked out by hand: (0.8 + z²/20 ± z·√(0.016 + z²/400)) / (1 + z²/10).
        accuracy = Accuracy(8, 10)
        assert accuracy.value == 0.8
        assert accuracy.low == pytest.approx(0.490162, abs=1e-6)
        assert accuracy.high == pytest.approx(0.943318, abs=1e-6)

    @given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
    def test_the_interval_contains_the_point(self, counts: tuple[int, int]) -> None:
        accuracy = Accuracy(*counts)
        assert 0 <= accuracy.low <= accuracy.value <= accuracy.high <= 1
        assert accuracy.high - accuracy.low > 0

    @given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.integers(2, 8))
    def test_the_interval_narrows_with_n(self, counts: tuple[int, int], factor: int) -> None:
        few, many = Accuracy(*counts), Accuracy(counts[0] * factor, counts[1] * factor)
        assert many.high - many.low < few.high - few.low

    def test_as_a_dictionary(self) -> None:
        accuracy = Accuracy(3, 4)
        assert accuracy.to_dict() == {"accuracy": 0.75, "n": 4, "low": accuracy.low, "high": accuracy.high}
        assert "0.750 (n = 4" in str(accuracy)

    @pytest.mark.parametrize(("correct", "n"), [(0, 0), (-1, 3), (4, 3)])
    def test_what_is_no_proportion(self, correct: int, n: int) -> None:
        with pytest.raises(ValueError, match="not a proportion"):
            Accuracy(correct, n)


class TestExactMatch:
    def test_answers_come_in_the_order_of_the_examples(
        self, letters: PreTrainedTokenizerFast, template: Template
    ) -> None:
        questions = ["b" * 9, "a", "c" * 30, "d" * 4, "e" * 17]
        model = Parrot(letters, lambda question: f"{question[0]}{len(question)}<end>")
        examples = [example(question, f"{question[0]}{len(question)}") for question in questions]
        examples[3] = example("dddd", "wrong")
        seen: list[tuple[int, int]] = []
        result = exact_match(
            model, examples, template, batch_size=2, progress=lambda done, total: seen.append((done, total))
        )
        assert result.answers == ["b9", "a1", "c30", "d4", "e17"]
        assert result.accuracy == Accuracy(4, 5)
        assert seen == [(2, 5), (4, 5), (5, 5)]

    def test_batches_hold_prompts_of_similar_length(self, letters: PreTrainedTokenizerFast, template: Template) -> None:
        model = Parrot(letters, lambda question: "x<end>")
        lengths = [1, 40, 2, 41]
        exact_match(model, [example("q" * length, "x") for length in lengths], template, batch_size=2)
        frame = len("[user]") + len("<end>") - 4 + len("[assistant]")
        assert [call["shape"] for call in model.calls] == [(2, 41 + frame), (2, 2 + frame)]

    @pytest.mark.parametrize(
        ("said", "right", "matches"),
        [
            ("yes<end>", "yes", True),
            ("  yes \n<end>", "yes", True),
            ("yes\nor no<end>", "yes", True),
            ("\n\nyes<end>", "yes", True),
            ("yes", "yes", True),
            ("yes<end>no", "yes", True),
            ("yes<eos>no", "yes", True),
            ("Yes<end>", "yes", False),
            ("yesno<end>", "yes", False),
            ("<end>", "yes", False),
            ("one\ntwo<end>", "one\ntwo", True),
            ("one<end>", "one\ntwo", False),
            ("a , b<end>", "a , b", True),
        ],
    )
    def test_what_counts_as_the_same(
        self, letters: PreTrainedTokenizerFast, template: Template, said: str, right: str, matches: bool
    ) -> None:
        model = Parrot(letters, lambda question: said)
        result = exact_match(model, [example("q", right)], template, max_new_tokens=50)
        assert result.accuracy.correct == int(matches)

    def test_any_reference_is_right(self, letters: PreTrainedTokenizerFast, template: Template) -> None:
        model = Parrot(letters, lambda question: f"{question}<end>")
        examples = [example("the second", "first", "the second"), example("neither", "first", "second")]
        assert exact_match(model, examples, template).accuracy == Accuracy(1, 2)

    def test_room_for_the_longest_right_answer(self, letters: PreTrainedTokenizerFast, template: Template) -> None:
        model = Parrot(letters, lambda question: "no end in sight " * 100)
        exact_match(model, [example("q", "four"), example("q", "one", "sixteen")], template)
        exact_match(model, [example("q", "four")], template, max_new_tokens=3)
        assert [call["max_new_tokens"] for call in model.calls] == [len("sixteen") + 1 + 2, 3]

    def test_generation_is_greedy_and_ends(self, letters: PreTrainedTokenizerFast, template: Template) -> None:
        model = Parrot(letters, lambda question: "x<end>")
        mask = EditMask(torch.zeros(1, 1), torch.zeros(1, 1))
        exact_match(model, [example("q", "x")], template, mask=mask)
        call = model.calls[0]
        assert call["do_sample"] is False
        assert call["repetition_penalty"] == 1.0
        assert call["eos_token_id"] == [letters.eos_token_id, letters.convert_tokens_to_ids("<end>")]
        assert call["pad_token_id"] == letters.pad_token_id
        assert call["mask"] is mask

    @pytest.mark.parametrize("training", [True, False])
    def test_the_mode_of_the_model_is_put_back(
        self, letters: PreTrainedTokenizerFast, template: Template, training: bool
    ) -> None:
        model = Parrot(letters, lambda question: "x<end>").train(training)
        exact_match(model, [example("q", "x")], template)
        assert (model.calls[0]["training"], model.calls[0]["gradients"]) == (False, False)
        assert model.training is training

        def cancel(done: int, total: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            exact_match(model, [example("q", "x")], template, progress=cancel)
        assert model.training is training
        assert torch.is_grad_enabled()

    def test_no_examples(self, letters: PreTrainedTokenizerFast, template: Template) -> None:
        with pytest.raises(InputError, match="no examples"):
            exact_match(Parrot(letters, str), [], template)


class TestOptionLikelihood:
    LABELS = ("no", "no idea", "yes")

    @pytest.fixture
    def model(self, letters: PreTrainedTokenizerFast) -> Memory:
        return Memory(len(letters))

    @pytest.fixture
    def examples(self) -> list[Example]:
        return [example(question, "yes") for question in ("first", "a longer second one", "3", "fourth", "5th")]

    @pytest.mark.parametrize("batch_size", [1, 4, 6, 100])
    def test_sums_over_the_tokens_of_a_label_and_its_end(
        self, template: Template, model: Memory, examples: list[Example], batch_size: int
    ) -> None:
        result = option_likelihood(model, examples, self.LABELS, template, batch_size=batch_size)
        for row, item in enumerate(examples):
            prompt = template.encode_prompt(item)
            for column, label in enumerate(self.LABELS):
                answer = template.tokenizer(f"{label}<end>", add_special_tokens=False)["input_ids"]
                assert len(answer) == len(label) + 1
                expected, tokens = 0.0, list(prompt)
                for token in answer:
                    scores = model.scores(torch.tensor(tokens))[-1]
                    expected += scores.log_softmax(-1)[token].item()
                    tokens.append(token)
                assert result.log_likelihoods[row, column].item() == pytest.approx(expected, rel=1e-4)
        best = result.log_likelihoods.argmax(1).tolist()
        assert result.choices == [self.LABELS[index] for index in best]
        assert result.accuracy == Accuracy(result.choices.count("yes"), 5)

    def test_a_label_that_begins_another_can_lose_to_it(self, template: Template, model: Memory) -> None:
        """With a model that never ends an answer after "no", the longer label is more likely."""
        end, space = (template.tokenizer.convert_tokens_to_ids(token) for token in ("<end>", " "))
        letter = template.tokenizer.convert_tokens_to_ids("o")
        with torch.no_grad():
            model.table.zero_()
            model.table[letter, end] = -1000.0
            model.table[letter, space] = 1000.0
            model.table[space, end] = 3000.0
        result = option_likelihood(model, [example("q", "no ")], ["no", "no "], template)
        assert result.choices == ["no "]

    def test_the_labels_of_a_prompt_share_a_pass(
        self, template: Template, model: Memory, examples: list[Example]
    ) -> None:
        seen: list[tuple[int, int]] = []
        option_likelihood(
            model,
            examples,
            self.LABELS,
            template,
            batch_size=7,
            progress=lambda done, total: seen.append((done, total)),
        )
        assert model.batches == [(2, 6), (2, 6), (1, 3)]
        assert seen == [(2, 5), (4, 5), (5, 5)]

    def test_more_labels_than_the_batch_size(self, template: Template, model: Memory) -> None:
        option_likelihood(model, [example("q", "a"), example("q", "b")], list("abcde"), template, batch_size=2)
        assert model.batches == [(1, 5), (1, 5)]

    def test_a_prompt_is_tokenised_once(
        self, template: Template, model: Memory, examples: list[Example], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = []
        encode_prompt = template.encode_prompt
        monkeypatch.setattr(template, "encode_prompt", lambda item: calls.append(item) or encode_prompt(item))
        option_likelihood(model, examples * 10, self.LABELS, template)
        assert len(calls) <= len(examples) * 10 + len(self.LABELS)

    def test_the_mode_of_the_model_is_put_back(
        self, template: Template, model: Memory, examples: list[Example]
    ) -> None:
        model.train()
        option_likelihood(model, examples, self.LABELS, template)
        assert set(model.modes) == {(False, False)}
        assert model.training

    @pytest.mark.parametrize("batch_size", [1, 5, 100])
    def test_options_by_example(self, template: Template, model: Memory, batch_size: int) -> None:
        options = [("a", "b"), ("yes", "no", "no idea"), ("b", "a"), ("x", "yes", "b", "q")]
        items = [replace(example(f"q{n}", own[-1]), options=own) for n, own in enumerate(options)]
        items.append(example("q", "yes"))
        result = option_likelihood(model, items, self.LABELS, template, batch_size=batch_size)
        assert result.log_likelihoods.shape == (5, 4)
        for row, own in enumerate([*options, self.LABELS]):
            alone = option_likelihood(model, [replace(items[row], options=())], own, template)
            values = result.log_likelihoods[row]
            torch.testing.assert_close(values[: len(own)], alone.log_likelihoods[0], rtol=1e-4, atol=1e-4)
            assert torch.isneginf(values[len(own) :]).all()
            assert result.choices[row] == alone.choices[0]
        with pytest.raises(InputError, match="two different labels"):
            option_likelihood(model, items, None, template)

    def test_nothing_to_choose(self, template: Template, model: Memory, examples: list[Example]) -> None:
        with pytest.raises(InputError, match="no examples"):
            option_likelihood(model, [], self.LABELS, template)
        with pytest.raises(InputError, match="two different labels"):
            option_likelihood(model, examples, ["yes", "yes"], template)


@pytest.fixture(scope="module")
def questions() -> list[Example]:
    return [example(question, "yes") for question in ("short", "a question of some length", "q", "what now?")]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
class TestWithAModel:
    @pytest.fixture
    def model(self, tiny: Callable[..., JoLAModel], architecture: str) -> JoLAModel:
        return tiny(architecture)

    @pytest.fixture
    def template(self, tokenizer: PreTrainedTokenizerFast) -> Template:
        return Template(tokenizer)

    def test_batches_answer_as_single_passes_without_a_cache(
        self, model: JoLAModel, template: Template, questions: list[Example]
    ) -> None:
        result = exact_match(model.train(), questions, template, batch_size=3, max_new_tokens=6)
        assert model.training
        model.eval()
        ends = template.end_token_ids
        for answer, item in zip(result.answers, questions, strict=True):
            tokens, new = template.encode_prompt(item), []
            with torch.no_grad():
                while len(new) < 6 and not (new and new[-1] in ends):
                    logits = model(torch.tensor([tokens + new])).logits
                    new.append(int(logits[0, -1].argmax()))
            text = template.tokenizer.decode(new, skip_special_tokens=True).strip()
            assert answer == text.partition("\n")[0].strip()

    def test_a_mask_switches_the_edits_off(
        self, model: JoLAModel, template: Template, questions: list[Example]
    ) -> None:
        off = EditMask.none(model.edits)
        with model.disable_edits():
            said = exact_match(model, questions, template, max_new_tokens=6).answers
            likely = option_likelihood(model, questions, ["yes", "no"], template).log_likelihoods
        assert exact_match(model, questions, template, max_new_tokens=6, mask=off).answers == said
        masked = option_likelihood(model, questions, ["yes", "no"], template, mask=off).log_likelihoods
        edited = option_likelihood(model, questions, ["yes", "no"], template).log_likelihoods
        torch.testing.assert_close(masked, likely)
        assert not torch.allclose(edited, likely, atol=1e-2)

    def test_likelihoods_are_those_of_a_pass_over_each_sequence(
        self, model: JoLAModel, template: Template, questions: list[Example]
    ) -> None:
        labels = ["yes", "not at all"]
        result = option_likelihood(model, questions, labels, template, batch_size=6)
        model.eval()
        for row, item in enumerate(questions):
            for column, label in enumerate(labels):
                encoded = template.encode(Example(item.prompt, label))
                ids = torch.tensor(encoded.input_ids)
                with torch.no_grad():
                    ln_p = model(ids[None]).logits[0].log_softmax(-1)
                answer = torch.arange(encoded.completion_start, len(ids))
                expected = ln_p[answer - 1, ids[answer]].sum()
                torch.testing.assert_close(result.log_likelihoods[row, column], expected, atol=1e-4, rtol=1e-5)
