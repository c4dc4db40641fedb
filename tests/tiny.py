"""Tiny random models of every architecture, and a tiny tokenizer with a chat template."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    OPTConfig,
    PhiConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from jola.model.loading import pick_attention

VOCABULARY = 300
LAYERS = 3

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

CORPUS = [
    "Is the sentiment of this sentence positive or negative? A fine, warm and funny film about small things.",
    "The question asks for a person, a location, a number or a description; the answer is one word.",
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
]

_SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 256,
}
_GROUPED = _SHAPE | {"num_key_value_heads": 2}

CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**_GROUPED),
    "mistral": MistralConfig(**_GROUPED, sliding_window=None),
    "qwen2": Qwen2Config(**_GROUPED),
    # The width of a head is not hidden_size / heads here, as in the models that were released.
    "qwen3": Qwen3Config(**_GROUPED, head_dim=16),
    # One key and value for all heads, as in the model that was released.
    "gemma": GemmaConfig(**_SHAPE, num_key_value_heads=1, head_dim=12),
    "gemma2": Gemma2Config(**_GROUPED, head_dim=12, sliding_window=16, query_pre_attn_scalar=12),
    "gemma3_text": Gemma3TextConfig(**_GROUPED, head_dim=12, sliding_window=16, query_pre_attn_scalar=12),
    "olmo2": Olmo2Config(**_GROUPED),
    "smollm3": SmolLM3Config(**_GROUPED, pad_token_id=0, no_rope_layers=[1, 0, 1]),
    "phi": PhiConfig(**_SHAPE),
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY,
        bos_token_id=None,
        eos_token_id=2,
        n_embd=32,
        n_layer=LAYERS,
        n_head=4,
        n_positions=256,
        n_inner=48,
        resid_pdrop=0.1,
        attn_pdrop=0.1,
        embd_pdrop=0.1,
    ),
    "gpt_neox": GPTNeoXConfig(**_SHAPE),
    "opt": OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        ffn_dim=48,
        max_position_embeddings=256,
        word_embed_proj_dim=32,
    ),
}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with 300 entries, end and padding tokens, and a chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_model(architecture: str, seed: int = 0) -> PreTrainedModel:
    """A tiny random model in float32; larger weights than usual, so that edits show in the logits."""
    torch.manual_seed(seed)
    config = type(CONFIGS[architecture]).from_dict(CONFIGS[architecture].to_dict())
    config.eos_token_id, config.pad_token_id, config.bos_token_id = 2, 0, None
    config.tie_word_embeddings = False
    attention = pick_attention("auto", config, torch.device("cuda"))  # sdpa if the architecture supports it
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attention).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.15)
    model.generation_config.eos_token_id = None
    return model
