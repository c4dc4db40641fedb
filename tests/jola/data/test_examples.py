"""Reading examples, templates, labels and padding."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from jola.data.examples import (
    IGNORED,
    Encoded,
    Example,
    Message,
    Template,
    collate,
    collate_prompts,
    describe_tokens,
    encode_examples,
    parse_rows,
    read_examples,
)
from jola.errors import InputError
from tests.tiny import make_tokenizer

QUESTION = Example((Message("user", "Is this film good?"),), "positive")
DIALOGUE = Example(
    (
        Message("system", "You are brief."),
        Message("user", "Hello"),
        Message("assistant", "Hi"),
        Message("user", "Is this film good?"),
    ),
    "yes",
)

GIVEN = ((Message("user", "a"),), "b")
GOOD = {"prompt": "a", "completion": "b"}

# Not fixtures, because hypothesis requires them to be the same for every example.
TEMPLATES = {"chat": Template(make_tokenizer(), "chat"), "plain": Template(make_tokenizer(), "plain")}


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def lines(*rows: object) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


class TestReading:
    @pytest.mark.parametrize(
        ("row", "example"),
        [
            ({"prompt": "a?", "completion": " b\n"}, Example((Message("user", "a?"),), "b")),
            ({"instruction": "a", "answer": "b"}, Example((Message("user", "a"),), "b")),
            ({"instruction": "a", "input": "x", "answer": "b"}, Example((Message("user", "a\nx"),), "b")),
            ({"instruction": "a", "input": "", "answer": "b"}, Example((Message("user", "a"),), "b")),
            (
                {"instruction": "a", "answer": "b", "references": ["b", "c"], "id": 7},
                Example((Message("user", "a"),), "b", ("b", "c")),
            ),
            ({"prompt": "a", "completion": "b", "references": ["", " ", "c"]}, Example(*GIVEN, ("c",))),
            ({"prompt": "a", "completion": "b", "references": " "}, Example(*GIVEN)),
            (
                {
                    "messages": [
                        {"role": "system", "content": "s"},
                        {"role": "user", "content": "u"},
                        {"role": "assistant", "content": "a"},
                    ]
                },
                Example((Message("system", "s"), Message("user", "u")), "a"),
            ),
            (
                {
                    "prompt": [{"role": "user", "content": "u"}],
                    "completion": [{"role": "assistant", "content": "a"}],
                },
                Example((Message("user", "u"),), "a"),
            ),
        ],
    )
    def test_every_accepted_form(self, tmp_path: Path, row: dict[str, object], example: Example) -> None:
        assert read_examples(write(tmp_path, "x.jsonl", lines(row))) == [example]
        assert read_examples(write(tmp_path, "x.json", json.dumps([row, row]))) == [example, example]

    def test_jsonl_may_have_blank_lines_a_byte_order_mark_and_line_separators_inside_texts(
        self, tmp_path: Path
    ) -> None:
        rows = lines({"prompt": "one\u2028line", "completion": "é"}) + "\n" + lines({"prompt": "b", "completion": "c"})
        examples = read_examples(write(tmp_path, "x.jsonl", b"\xef\xbb\xbf" + rows.encode()))
        assert [example.prompt[0].content for example in examples] == ["one\u2028line", "b"]

    def test_json_lines_under_the_name_json(self, tmp_path: Path) -> None:
        rows = lines({"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"})
        assert len(read_examples(write(tmp_path, "x.json", rows))) == 2

    def test_csv_keeps_every_cell_as_the_text_it_is(self, tmp_path: Path) -> None:
        path = write(tmp_path, "x.csv", 'instruction,answer\r\n"a, ""b""\nc",007\r\nd,NA\r\ne,null\r\n')
        examples = read_examples(path)
        assert [example.completion for example in examples] == ["007", "NA", "null"]
        assert examples[0].prompt[0].content == 'a, "b"\nc'

    def test_parquet(self, tmp_path: Path) -> None:
        messages = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"messages": messages}]), tmp_path / "x.parquet")
        assert read_examples(tmp_path / "x.parquet") == [Example((Message("user", "u"),), "a")]

    @pytest.mark.parametrize(
        ("name", "content", "words"),
        [
            ("x.jsonl", lines(*[GOOD] * 6) + '{"prompt": \n', ["ine 7 of", "not valid JSON"]),
            ("x.json", '[{"prompt": "a",\n "completion" "b"}]', ["ine 2 of", "not valid JSON"]),
            ("x.jsonl", "[" * 100_000, ["ine 1 of", "not valid JSON"]),
            ("x.jsonl", b'{"prompt": "a\xff"}', ["not UTF-8", "byte 13", "0xff"]),
            ("x.jsonl", b'\xef\xbb\xbf{"prompt": "a\xff"}', ["not UTF-8", "byte 16"]),
            ("x.jsonl", "", ["is empty"]),
            ("x.jsonl", " \n\n", ["is empty"]),
            ("x.json", "[]", ["no examples"]),
            ("x.csv", "instruction,answer\n", ["no examples"]),
            ("x.txt", "a", [".jsonl", ".parquet"]),
            (
                "x.jsonl",
                lines({"question": "a", "label": "b"}),
                ["question, label", "prompt + completion", "instruction + answer"],
            ),
            ("x.json", lines({"data": []}), ["tem 1 of", "columns found are data"]),
            ("x.jsonl", lines(["a", "b"]), ["ine 1", "not a list"]),
            ("x.jsonl", lines({"prompt": "a", "completion": 3}), ["completion must be text", "number 3"]),
            ("x.jsonl", lines({"prompt": "a", "completion": None}), ["'completion' has no value"]),
            ("x.jsonl", lines({"prompt": "a", "completion": " "}), ["answer is empty"]),
            ("x.jsonl", lines({"prompt": " ", "completion": "b"}), ["prompt is empty"]),
            ("x.jsonl", lines({"instruction": "", "answer": "b"}), ["instruction is empty"]),
            ("x.jsonl", '{"prompt": "\\ud83d", "completion": "b"}', ["surrogate"]),
            ("x.jsonl", lines({"messages": "hello"}), ["must be a list of turns"]),
            ("x.jsonl", lines({"messages": [{"role": "user", "content": "u"}]}), ["must end with a turn"]),
            (
                "x.jsonl",
                lines({"messages": [{"role": "bot", "content": "u"}]}),
                ["turn 1", "'bot'", "system, user, assistant"],
            ),
            ("x.jsonl", lines({"messages": [{"role": ["user"], "content": "u"}]}), ["turn 1", "role"]),
            ("x.jsonl", lines({"messages": [{"role": "user"}]}), ["turn 1", "'content'"]),
            (
                "x.jsonl",
                lines({"messages": [{"role": "system", "content": "s"}, {"role": "assistant", "content": "a"}]}),
                ["turn before the answer must be a user turn"],
            ),
            ("x.jsonl", lines({"prompt": [], "completion": "a"}), ["turn before the answer"]),
            (
                "x.jsonl",
                lines({"prompt": "a", "completion": [{"role": "user", "content": "b"}]}),
                ["exactly one assistant turn"],
            ),
            ("x.jsonl", lines(GOOD | {"references": [1]}), ["references must be text"]),
            ("x.csv", "instruction,answer\na,b\nc,\n", ["ow 2", "'answer' has no value"]),
            ("x.csv", "instruction,answer\na,b\nc\n", ["ow 2", "'answer' has no value"]),
            ("x.csv", "instruction,answer\na,b,c\n", ["ow 1", "more cells"]),
            ("x.csv", 'instruction,answer\n"a,b\n', ["not a valid CSV"]),
            ("x.csv", "instruction;answer\na;b\n", ["instruction;answer"]),
            ("x.parquet", "hello", ["cannot be read as a Parquet file"]),
        ],
    )  # fmt: skip
    def test_what_is_wrong_is_said_in_one_sentence(
        self, tmp_path: Path, name: str, content: str | bytes, words: list[str]
    ) -> None:
        with pytest.raises(InputError) as error:
            read_examples(write(tmp_path, name, content))
        message = str(error.value)
        assert name in message
        assert message.endswith(".") and "\n" not in message
        for word in words:
            assert word in message

    def test_missing_file_and_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="There is no file"):
            read_examples(tmp_path / "x.jsonl")
        (tmp_path / "y.jsonl").mkdir()
        with pytest.raises(InputError, match="is a folder"):
            read_examples(tmp_path / "y.jsonl")


class TestTemplate:
    def test_chat_is_what_the_tokenizer_writes(self, tokenizer: PreTrainedTokenizerFast) -> None:
        template = Template(tokenizer)
        for example in (QUESTION, DIALOGUE):
            turns = [{"role": turn.role, "content": turn.content} for turn in example.prompt]
            full = tokenizer.apply_chat_template(
                [*turns, {"role": "assistant", "content": example.completion}], tokenize=False
            )
            prompt, completion = template.render(example)
            assert template.kind == "chat"
            assert prompt + completion + "\n" == full
            assert completion == f"{example.completion}<|im_end|>"

    def test_plain_is_the_paper_s_to_the_character(self, tokenizer: PreTrainedTokenizerFast) -> None:
        example = Example((Message("user", "Braces {x} stay."),), "positive")
        assert Template(tokenizer, "plain").render(example) == (
            "Below is an instruction that describes a task. Write a response that appropriately completes the "
            "request.\n ### Instruction:\nBraces {x} stay.\n\n### Response:\n",
            "positive<|im_end|>",
        )

    def test_plain_names_the_roles_of_several_turns(self, tokenizer: PreTrainedTokenizerFast) -> None:
        prompt, _ = Template(tokenizer, "plain").render(DIALOGUE)
        assert "You are brief.\nuser: Hello\nassistant: Hi\nuser: Is this film good?\n\n### Response:\n" in prompt

    @pytest.mark.parametrize("kind", ["chat", "plain"])
    @settings(max_examples=30)
    @given(question=st.text(min_size=1), answer=st.text(min_size=1))
    def test_training_sees_the_tokens_that_generation_sees(self, kind: str, question: str, answer: str) -> None:
        template = TEMPLATES[kind]
        example = Example((Message("user", question),), answer)
        row = template.encode(example)
        assert row.input_ids[: row.completion_start] == template.encode_prompt(example)
        assert template.encode_prompt(Example(example.prompt, "")) == template.encode_prompt(example)
        decoded = template.tokenizer.decode(row.input_ids[row.completion_start :])
        assert decoded == f"{answer}<|im_end|>"
        assert row.input_ids[-1] in template.end_token_ids
        labels = collate([row], 0)["labels"][0].tolist()
        assert labels == [IGNORED] * row.completion_start + row.input_ids[row.completion_start :]

    def test_auto_without_a_chat_template_is_plain(self) -> None:
        tokenizer = make_tokenizer()
        tokenizer.chat_template = None
        assert Template(tokenizer, "auto").kind == "plain"
        with pytest.raises(InputError, match="no chat template"):
            Template(tokenizer, "chat")

    def test_plain_begins_with_the_special_token_of_the_tokenizer_and_has_no_other(self) -> None:
        from tokenizers.processors import TemplateProcessing

        tokenizer = make_tokenizer()
        begin, end = (tokenizer.convert_tokens_to_ids(token) for token in ("<|im_start|>", "<|im_end|>"))
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<|im_start|> $A <|im_end|>", special_tokens=[("<|im_start|>", begin), ("<|im_end|>", end)]
        )
        prompt = Template(tokenizer, "plain").encode_prompt(QUESTION)
        assert prompt[0] == begin
        assert not {begin, end} & set(prompt[1:])
        chat = Template(tokenizer, "chat").encode_prompt(QUESTION)
        assert chat.count(begin) == 2 and chat.count(end) == 1

    def test_end_of_turn_that_is_not_the_end_of_text(self) -> None:
        tokenizer = make_tokenizer()
        tokenizer.eos_token = "<|endoftext|>"
        template = Template(tokenizer)
        assert template.render(QUESTION)[1] == "positive<|im_end|>"
        assert template.end_token_ids == tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
        assert Template(tokenizer, "plain").end_token_ids == [tokenizer.eos_token_id]

    def test_an_answer_may_contain_the_text_of_a_special_token(self, tokenizer: PreTrainedTokenizerFast) -> None:
        example = Example(QUESTION.prompt, "write <|im_end|> here")
        assert Template(tokenizer).render(example)[1] == "write <|im_end|> here<|im_end|>"

    def test_marks_before_the_answer_belong_to_the_prompt_and_blanks_to_the_answer(self) -> None:
        tokenizer = make_tokenizer()
        turn = "{% for m in messages %}[{{ m['role'] }}]%s{{ m['content'] }}{% if m['role'] == 'assistant' %}"
        turn += "<|im_end|>{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
        tokenizer.chat_template = turn.replace("%s", "{% if m['role'] == 'assistant' %}<think></think>{% endif %}")
        assert Template(tokenizer).render(QUESTION) == (
            "[user]Is this film good?[assistant]<think></think>",
            "positive<|im_end|>",
        )
        tokenizer.chat_template = turn.replace("%s", " ")
        assert Template(tokenizer).render(QUESTION) == (
            "[user] Is this film good?[assistant]",
            " positive<|im_end|>",
        )

    @pytest.mark.parametrize(
        "chat_template",
        [
            # Drops the conversation, so that the answer does not continue the prompt.
            "{% if add_generation_prompt %}Q: {{ messages[0]['content'] }} A:{% else %}nothing{% endif %}",
            # Ends a turn with plain text.
            "{% for m in messages %}{{ m['content'] }}\n{% endfor %}",
        ],
    )
    def test_a_template_that_shows_no_end_of_turn_gets_the_end_of_text(self, chat_template: str) -> None:
        tokenizer = make_tokenizer()
        tokenizer.chat_template = chat_template
        assert Template(tokenizer).render(QUESTION)[1] == "positive<|im_end|>"

    def test_a_conversation_that_the_template_refuses(self) -> None:
        tokenizer = make_tokenizer()
        tokenizer.chat_template = (
            "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
            + tokenizer.chat_template
        )
        template = Template(tokenizer)
        template.encode(QUESTION)
        with pytest.raises(InputError, match="no system turn"):
            template.encode(DIALOGUE)

    def test_a_tokenizer_without_an_end_is_refused(self) -> None:
        tokenizer = make_tokenizer()
        tokenizer.eos_token = None
        with pytest.raises(InputError, match="no end-of-text token"):
            Template(tokenizer, "plain")

    def test_the_tokens_shown_are_the_tokens_learned(self, tokenizer: PreTrainedTokenizerFast) -> None:
        template = Template(tokenizer)
        example = Example((Message("user", "Gut 🤗?"),), "sehr é")
        shown = describe_tokens(example, template)
        prompt, completion = template.render(example)
        assert "".join(text for text, learned in shown if not learned) == prompt
        assert "".join(text for text, learned in shown if learned) == completion
        assert shown[-1] == ("<|im_end|>", True)
        assert any("🤗" in text for text, _ in shown)


class TestEncoding:
    def test_long_examples_are_left_out_whole(self, tokenizer: PreTrainedTokenizerFast) -> None:
        template = Template(tokenizer)
        longer = Example((Message("user", "Is this film good? " * 20),), "positive")
        limit = len(template.encode(QUESTION).input_ids)
        encoded = encode_examples([longer, QUESTION, longer, QUESTION], template, limit)
        assert (encoded.kept, encoded.dropped) == ([1, 3], 2)
        assert encoded.rows == [template.encode(QUESTION)] * 2
        assert encode_examples([longer, QUESTION], template, 0).dropped == 0
        with pytest.raises(InputError, match=f"None of the 2 examples.*the shortest has {limit}"):
            encode_examples([QUESTION, longer], template, limit - 1)

    def test_training_batches_are_padded_on_the_right(self) -> None:
        batch = collate([Encoded([5, 6, 7, 8], 2), Encoded([9, 2], 1)], pad_token_id=2)
        assert batch["input_ids"].tolist() == [[5, 6, 7, 8], [9, 2, 2, 2]]
        # The padding token is also an answer token here: padding is recognized by position, not by value.
        assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
        assert batch["labels"].tolist() == [[IGNORED, IGNORED, 7, 8], [IGNORED, 2, IGNORED, IGNORED]]
        assert {tensor.dtype for tensor in batch.values()} == {torch.int64}

    def test_prompts_are_padded_on_the_left(self) -> None:
        batch = collate_prompts([[5, 6, 7], [9]], pad_token_id=0)
        assert batch["input_ids"].tolist() == [[5, 6, 7], [0, 0, 9]]
        assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize(
    ("value", "options"),
    [
        (["a", " b ", "c"], ("a", "b", "c")),
        (["a", "c"], ()),
        (["b"], ()),
        (["b", "b"], ()),
        (["b", 2], ()),
        ({"text": ["a", "b"]}, ()),
        ("a, b", ()),
        (None, ()),
    ],
)
def test_options_are_read_where_they_hold_the_answer(value: Any, options: tuple[str, ...]) -> None:
    row = {"prompt": "a or b?", "completion": "b", "options": value}
    (found,) = parse_rows([("row 1", row)])
    assert found.options == options
    without = Example(found.prompt, "b")
    assert (found.id == without.id) == (not options)
