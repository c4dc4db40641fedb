"""Compare the throughput of two served models, folded ÷ base, in tokens per second of concurrent requests.

    vllm serve my-base --port 8001
    vllm serve my-model --port 8002
    python -m benchmarks.served_throughput http://127.0.0.1:8001 http://127.0.0.1:8002 [--requests 8] [--pairs 20]

Both servers implement OpenAI's API (``/v1/completions``), as those of vLLM, TGI and transformers do. A pair is one
batch of requests to each server, in alternating order; all requests of a batch are sent at once. Without
``--ignore-eos``, the two models may give answers of different lengths, which affects the ratio. The last line of output
is one JSON object with the median ratio over pairs and its 95 % bootstrap interval.
"""

import argparse
import json
import random
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

PROMPTS = (
    "The history of the lighthouse begins with",
    "To bake bread without an oven, first",
    "The committee could not agree, because",
    "In the spring of that year, the river",
)


class Server:
    """A served model.

    Args:
        address: Its address, without ``/v1``.
        new_tokens: Maximum length of an answer in tokens.
        ignore_eos: Whether answers continue after an end token, which not every server supports.
    """

    def __init__(self, address: str, new_tokens: int, ignore_eos: bool) -> None:
        self.client = httpx.Client(base_url=address, timeout=600, limits=httpx.Limits(max_connections=None))
        models = self.client.get("/v1/models").raise_for_status().json()["data"]
        self.request = {"model": models[0]["id"], "max_tokens": new_tokens, "temperature": 0}
        if ignore_eos:
            self.request["ignore_eos"] = True

    def tokens_per_second(self, requests: int) -> float:
        """Return the tokens of all answers ÷ the seconds until the last answer arrives."""
        began = time.perf_counter()
        with ThreadPoolExecutor(requests) as pool:
            counts = list(pool.map(self._ask, range(requests)))
        return sum(counts) / (time.perf_counter() - began)

    def _ask(self, number: int) -> int:
        # Prompts begin with different numbers, so that servers cannot cache a common prefix.
        prompt = f"{number}. {PROMPTS[number % len(PROMPTS)]}"
        answer = self.client.post("/v1/completions", json={**self.request, "prompt": prompt}).raise_for_status().json()
        return int(answer["usage"]["completion_tokens"])


def main() -> None:
    """Measure the pairs, and end with one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("folded")
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--ignore-eos", action="store_true")
    options = parser.parse_args()
    if min(options.requests, options.new_tokens, options.pairs) < 1:
        parser.error("--requests, --new-tokens and --pairs must be at least 1")

    try:
        servers = {
            name: Server(getattr(options, name), options.new_tokens, options.ignore_eos) for name in ("folded", "base")
        }
    except httpx.HTTPError as error:
        parser.error(f"a server does not answer ({error}); start both servers first")
    rates: dict[str, list[float]] = {name: [] for name in servers}
    for pair in range(-1, options.pairs):  # one to warm up
        for name in sorted(servers, reverse=bool(pair % 2)):
            rate = servers[name].tokens_per_second(options.requests)
            if pair >= 0:
                rates[name].append(rate)
    result = {**ratio(rates["folded"], rates["base"]), **vars(options)}
    result |= {f"{name}_tokens_per_second": statistics.median(found) for name, found in rates.items()}
    print(f"folded ÷ base: {result['median']:.3f} ({result['low']:.3f}–{result['high']:.3f}), n = {result['n']} pairs")
    print(json.dumps(result), flush=True)


def ratio(ones: list[float], others: list[float]) -> dict[str, Any]:
    """Return the median of the ratios of pairs, with its 95 % bootstrap interval."""
    ratios = [one / other for one, other in zip(ones, others, strict=True)]
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(2000))
    return {"median": statistics.median(ratios), "low": medians[50], "high": medians[1949], "n": len(ratios)}


if __name__ == "__main__":
    main()
