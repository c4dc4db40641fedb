"""Examples for the selection of heads."""

from jola.data.examples import Example, Message, Template, encode_examples
from jola.jola_model import JoLAModel
from jola.selectors import Budget
from jola.selectors.protocol import Selection

WORDS = ("positive", "negative", "person", "location", "number", "description")
QUESTIONS = ("A fine, warm film", "small things", "the question asks for", "is the answer one word?", "funny or not")
SHORT = Budget(epochs=1, batch_size=2)


def question(text: str, answer: str) -> Example:
    return Example((Message("user", text),), answer)


EXAMPLES = [question(text, word) for text, word in zip(QUESTIONS, WORDS, strict=False)]


def selection(model: JoLAModel, examples: list[Example] = EXAMPLES, budget: Budget = SHORT) -> Selection:
    rows = encode_examples(examples, Template(model.tokenizer), 0).rows
    return Selection(model, rows, 3, 0, budget, None)
