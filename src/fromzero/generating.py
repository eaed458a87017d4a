"""generate(): a language model continues a text, or answers in a dialogue."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fromzero.data import texts
from fromzero.data.tokens import opened
from fromzero.errors import RunError, UsageError
from fromzero.records import Tokens
from fromzero.runs import Run

TOKENS = 128  # that are written, unless the model ends before


def generate(
    path: Path | str,
    prompt: str | Sequence[texts.Turn],
    *,
    tokens: int = TOKENS,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    stop: str = "",
) -> str:
    """What the model of a run writes after `prompt`, at most `tokens` tokens of it, up to its own end mark or `stop`. A
    model that learnt dialogues answers: to a question, or to the last of several turns (role and text).

    `temperature` 0 always takes the most probable token; above, one is drawn by `seed`, the likelier it is the lower
    the temperature, among the `top_k` most probable (0: all) that together hold `top_p` of the probability."""
    if tokens < 1 or temperature < 0 or top_k < 0 or not 0 < top_p <= 1:
        raise UsageError("bad_sampling", tokens=tokens, temperature=temperature, top_k=top_k, top_p=top_p)
    from fromzero.models.calling import Called

    run = Run(Path(path))
    if (task := run.plan().workload.task) != "lm":
        raise RunError("no_language_model", path=run.path, task=task)
    how, model = run.preprocessing(), _opened(run)
    ids = _prompt(prompt, how)
    inner = model.model if isinstance(model, Called) else model
    if hasattr(inner, "can_generate") and inner.can_generate():
        written = _by_transformers(inner, ids, how, tokens, temperature, top_k, top_p, seed)
    else:
        written = _by_hand(model, ids, how, tokens, temperature, top_k, top_p, seed)
    text = opened(how.tokenizer).decode(written)
    text = text.rstrip("\ufffd")  # a character whose last bytes were not written
    return text.partition(stop)[0] if stop else text


def _opened(run: Run) -> Any:
    import torch

    from fromzero.runtimes.torch_runtime import open_module

    return open_module(run.path).to("cuda" if torch.cuda.is_available() else "cpu").eval()


def _prompt(prompt: str | Sequence[texts.Turn], how: Tokens) -> list[int]:
    """At least one token: what comes first in a text follows an end mark."""
    if how.template:
        turns = [{"role": "user", "text": prompt}] if isinstance(prompt, str) else list(prompt)
        return texts.prompt(turns, how)
    if not isinstance(prompt, str):
        raise UsageError("not_a_text", kind=type(prompt).__name__)
    ids = opened(how.tokenizer).encode(prompt).ids
    return ids or [max(how.end, 0)]


def _by_hand(
    model: Any, ids: list[int], how: Tokens, tokens: int, temperature: float, top_k: int, top_p: float, seed: int
) -> list[int]:
    import torch

    device = next(model.parameters()).device
    dice = torch.Generator().manual_seed(seed)
    written: list[int] = []
    with torch.inference_mode():
        while len(written) < tokens:
            seen = torch.tensor([[*ids, *written][-how.length :]], device=device)  # it never learnt from more
            outputs = model(seen)
            logits = getattr(outputs, "logits", outputs)[0, -1].float().cpu()
            chosen = drawn(logits, temperature, top_k, top_p, dice)
            if chosen == how.end:
                break
            written.append(chosen)
    return written


def drawn(logits: Any, temperature: float, top_k: int, top_p: float, dice: Any) -> int:
    """A token by its logits (vocabulary,): the most probable at temperature 0, else drawn by the generator `dice`."""
    import torch

    if temperature == 0:
        return int(logits.argmax())
    values, places = torch.sort(logits / temperature, descending=True, stable=True)
    shares = torch.softmax(values, -1)
    if top_k:
        shares[top_k:] = 0
    shares[1:][shares.cumsum(-1)[:-1] >= top_p * shares.sum()] = 0  # nucleus (Holtzman et al. 2020): the first stays
    return int(places[torch.multinomial(shares, 1, generator=dice)])


def _by_transformers(
    model: Any, ids: list[int], how: Tokens, tokens: int, temperature: float, top_k: int, top_p: float, seed: int
) -> list[int]:
    """transformers' own loop, which keeps keys and values."""
    import torch

    device = next(model.parameters()).device
    given = torch.tensor([ids], device=device)
    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p} if temperature else {}
    with torch.inference_mode(), torch.random.fork_rng():
        torch.manual_seed(seed)
        found = model.generate(
            given,
            attention_mask=torch.ones_like(given),
            max_new_tokens=tokens,
            do_sample=bool(temperature),
            pad_token_id=how.padding,
            eos_token_id=how.end if how.end >= 0 else None,
            **sampling,
        )
    return found[0, 1 if model.config.is_encoder_decoder else len(ids) :].tolist()
