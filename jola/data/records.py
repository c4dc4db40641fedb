"""Read examples from JSONL, JSON, CSV and Parquet files.

An example is a conversation up to the answer, and the answer. It can be written in three ways:

============================  ==========================================================================
columns                       meaning
============================  ==========================================================================
``prompt``, ``completion``    strings, or lists of ``{"role", "content"}`` as in TRL
``messages``                  one list of ``{"role", "content"}`` whose last turn is the assistant's
``instruction``, ``answer``   strings; an optional string ``input`` is appended below the instruction
============================  ==========================================================================

Two more columns are optional: ``references``, a string or a list of strings, and ``options``, a list of strings that
includes the answer. All other columns are ignored, and so are empty references and a column ``options`` with other
content. Surrounding white space of an answer is removed: it is usually left over from another template, and chat
templates remove it too.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jola.errors import InputError

ROLES = ("system", "user", "assistant")
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")

COLUMN_SETS = (("prompt", "completion"), ("messages",), ("instruction", "answer"))
ACCEPTED_COLUMNS = "prompt + completion, messages, or instruction + answer"

CSV_FIELD_LIMIT = 2**31 - 1


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; ``role`` is one of ``ROLES``."""

    role: str
    content: str


@dataclass(frozen=True)
class Example:
    """A conversation that ends with a user turn, and the answer to it.

    ``references`` are other right answers of a generation task, used only for scoring and never for training.
    ``options`` are the possible answers to this example, including the right one; empty if any text may be an answer,
    or if all examples of the task have the same labels.
    """

    prompt: tuple[Message, ...]
    completion: str
    references: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Hash of the content, 32 hexadecimal digits."""
        return content_hash(((self,),))


def content_hash(parts: Sequence[Sequence[Example]]) -> str:
    """Hash of the examples in their order, 32 hexadecimal digits."""
    content = json.dumps([[_content(example) for example in part] for part in parts], ensure_ascii=False)
    return hashlib.sha256(content.encode("utf-8")).hexdigest()[:32]


def _content(example: Example) -> list[object]:
    prompt = [[message.role, message.content] for message in example.prompt]
    options = [list(example.options)] if example.options else []
    return [prompt, example.completion, list(example.references), *options]


def read_examples(path: Path | str) -> list[Example]:
    """Read all examples of one ``.jsonl``, ``.json``, ``.csv`` or ``.parquet`` file, in order.

    Raises:
        InputError: The file is missing, empty, not UTF-8 or not valid for its format, or an example cannot be used. The
            message names the file and, if known, the line, item or row (counted from 1).
    """
    path = Path(path).expanduser()
    readers = {".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv, ".parquet": _read_parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path} cannot be read as examples: its name must end in {', '.join(SUFFIXES)}.")
    examples = parse_rows(reader(path))
    if not examples:
        raise InputError(f"{path} contains no examples.")
    return examples


def parse_rows(rows: Iterable[tuple[str, Any]]) -> list[Example]:
    """Parse rows; each comes with its location for error messages, such as "line 7 of x.jsonl"."""
    return [_parse_row(row, where) for where, row in rows]


def _parse_row(row: Any, where: str) -> Example:
    if not isinstance(row, Mapping):
        raise _refused(where, f"an object with named values is needed, not {_kind(row)}")
    columns = next((names for names in COLUMN_SETS if all(row.get(name) is not None for name in names)), None)
    if columns is None:
        raise _wrong_columns(row, where)
    if columns[0] == "messages":
        prompt, completion = _split_messages(row["messages"], where)
    elif columns[0] == "prompt":
        prompt = _prompt(row["prompt"], where)
        completion = _completion(row["completion"], where)
    else:
        prompt = (Message("user", _instruction(row, where)),)
        completion = _text(row["answer"], "answer", where)
    if not prompt or prompt[-1].role != "user":
        raise _refused(where, "the turn before the answer must be a user turn")
    if not completion.strip():
        raise _refused(where, "the answer is empty; every example needs one")
    completion = completion.strip()
    return Example(prompt, completion, _references(row.get("references"), where), _options(row, completion))


def _wrong_columns(row: Mapping[Any, Any], where: str) -> InputError:
    # If all names of a set are present but a value is missing, the user meant this set: name the missing value.
    for names in COLUMN_SETS:
        if all(name in row for name in names):
            missing = next(name for name in names if row[name] is None)
            return _refused(where, f"'{missing}' has no value; every example needs one")
    found = ", ".join(str(name) for name in row) or "none"
    return _refused(where, f"the columns found are {found}, but {ACCEPTED_COLUMNS} is needed")


def _instruction(row: Mapping[Any, Any], where: str) -> str:
    instruction = _text(row["instruction"], "instruction", where)
    if not instruction.strip():
        raise _refused(where, "the instruction is empty")
    if row.get("input") is None:
        return instruction
    context = _text(row["input"], "input", where)
    return f"{instruction}\n{context}" if context.strip() else instruction


def _prompt(value: Any, where: str) -> tuple[Message, ...]:
    if isinstance(value, list):
        return _messages(value, "prompt", where)
    text = _text(value, "prompt", where)
    if not text.strip():
        raise _refused(where, "the prompt is empty")
    return (Message("user", text),)


def _completion(value: Any, where: str) -> str:
    if not isinstance(value, list):
        return _text(value, "completion", where)
    messages = _messages(value, "completion", where)
    if len(messages) != 1 or messages[0].role != "assistant":
        raise _refused(where, "a completion given as a list must contain exactly one assistant turn")
    return messages[0].content


def _split_messages(value: Any, where: str) -> tuple[tuple[Message, ...], str]:
    if not isinstance(value, list):
        raise _refused(where, f"'messages' must be a list of turns, not {_kind(value)}")
    messages = _messages(value, "messages", where)
    if len(messages) < 2 or messages[-1].role != "assistant":
        raise _refused(where, "'messages' must end with a turn of the assistant after a user's turn")
    return messages[:-1], messages[-1].content


def _messages(value: list[Any], name: str, where: str) -> tuple[Message, ...]:
    messages = []
    for number, turn in enumerate(value, start=1):
        if not isinstance(turn, Mapping) or turn.get("role") is None or turn.get("content") is None:
            raise _refused(where, f"turn {number} of '{name}' must have a 'role' and a 'content'")
        role = turn["role"]
        if role not in ROLES:
            known = ", ".join(ROLES)
            raise _refused(where, f"turn {number} of '{name}' has the role {role!r}; known are {known}")
        messages.append(Message(role, _text(turn["content"], f"content of turn {number} of '{name}'", where)))
    return tuple(messages)


def _references(value: Any, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    texts = value if isinstance(value, list) else [value]
    # An empty one pads the columns of a table; as a right answer, it would reward saying nothing.
    return tuple(text for each in texts if (text := _text(each, "references", where)).strip())


def _options(row: Mapping[Any, Any], completion: str) -> tuple[str, ...]:
    """Return the options of a row; empty if its column ``options`` has another meaning."""
    value = row.get("options")
    if not isinstance(value, list) or not all(isinstance(option, str) for option in value):
        return ()
    options = tuple(option.strip() for option in value)
    return options if completion in options and len(set(options)) == len(options) > 1 else ()


def _text(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise _refused(where, f"the {name} must be text, not {_kind(value)}")
    try:
        # JSON can write half of a surrogate pair ("\ud83d"); no tokenizer accepts it.
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise _refused(where, f"the {name} contains an unpaired surrogate, which is not a valid character") from None
    return value


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return f"the number {value} (put it in quotes)"
    if isinstance(value, str):
        return "text"
    if isinstance(value, list):
        return "a list"
    return "an object" if isinstance(value, Mapping) else type(value).__name__


def _refused(where: str, what: str) -> InputError:
    return InputError(f"{where[:1].upper()}{where[1:]}: {what}.")


def _read_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    yield from _parse_lines(_read_text(path), path)


def _read_json(path: Path) -> Iterator[tuple[str, Any]]:
    text = _read_text(path)
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        if not text.lstrip().startswith("["):
            # Many JSON Lines files are named .json.
            yield from _parse_lines(text, path)
            return
        raise InputError(
            f"Line {error.lineno} of {path} is not valid JSON: {error.msg} at column {error.colno}."
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {error}.") from None
    for number, item in enumerate(content if isinstance(content, list) else [content], start=1):
        yield f"item {number} of {path}", item


def _parse_lines(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    # Not str.splitlines, because U+2028 and similar characters may occur inside a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"line {number} of {path}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(
                f"Line {number} of {path} is not valid JSON: {error.msg} at column {error.colno}."
            ) from None
        except (ValueError, RecursionError) as error:
            raise InputError(f"Line {number} of {path} is not valid JSON: {error}.") from None
        yield where, row


def _read_csv(path: Path) -> Iterator[tuple[str, Any]]:
    # The csv module instead of pandas: every cell stays text, so "NA", "007" and "true" are answers.
    text = _read_text(path)
    old_limit = csv.field_size_limit(CSV_FIELD_LIMIT)
    try:
        rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        for number, row in enumerate(rows, start=1):
            where = f"row {number} of {path}"
            if row.pop(None, None) is not None:  # DictReader keeps surplus cells under None
                raise _refused(where, "it has more cells than the header; put texts with commas in quotes")
            yield where, {name: value or None for name, value in row.items()}
    except csv.Error as error:
        raise InputError(f"{path} is not a valid CSV file: {error}.") from None
    finally:
        csv.field_size_limit(old_limit)


def _read_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    # Imported here because it takes half a second and only this format needs it.
    import pyarrow
    import pyarrow.parquet

    content = _read_bytes(path)
    try:
        rows = pyarrow.parquet.read_table(pyarrow.BufferReader(content)).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(f"{path} cannot be read as a Parquet file: {reason}.") from None
    for number, row in enumerate(rows, start=1):
        yield f"row {number} of {path}", row


def _read_text(path: Path) -> str:
    content = _read_bytes(path)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The position in the error does not count a byte order mark.
        position = len(content) - len(error.object) + error.start
        raise InputError(
            f"{path} is not UTF-8 text: byte {position} (0x{content[position]:02x}) is invalid; save the file as UTF-8."
        ) from None


def _read_bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"There is no file {path}.") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder, but a file is needed.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from None
    if not content.strip():
        raise InputError(f"{path} is empty.")
    return content
