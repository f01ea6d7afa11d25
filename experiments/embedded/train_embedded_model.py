"""Makes the embedded model: a small OPT with its own tokenizer, trained on the embedded text.

    python experiments/embedded/train_embedded_model.py [--tokens 19300000] [--dest DIR]

Fits a byte-level BPE to the train part, then trains an `OPTForCausalLM` on windows of that part
(bf16 autocast, AdamW, warm-up and cosine decay). Keeps the weights with the lowest validation loss.
The model sees the text about three times. With every further pass the loss on train falls further
below that on validation, and fine-tuning makes a model worse that knows its text by heart. Takes
about half an hour on two idle cores.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast

from core.texts.sources import documents, resolve_text

ASSETS = Path(__file__).resolve().parents[2] / "core" / "assets"
VOCAB_SIZE, WINDOW, BATCH = 3072, 256, 16
PEAK_LR, FINAL_LR, WARMUP_STEPS, WEIGHT_DECAY, CLIP = 2.5e-3, 2e-5, 200, 0.1, 1.0


def embedded(part: str) -> list[str]:
    """Return the documents of one part of the embedded text."""
    return list(documents(resolve_text(f"embedded:{part}", "finetune")))


def fit_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Fit a byte-level BPE with OPT's special tokens and ids; `</s>` stands before each text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> $A", special_tokens=[("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="</s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        model_max_length=WINDOW,
    )


def stream(tokenizer: PreTrainedTokenizerFast, part: str) -> torch.Tensor:
    """Return one long row of ids, in which every document begins with `</s>`."""
    return torch.tensor([i for ids in tokenizer(embedded(part)).input_ids for i in ids])


@torch.no_grad()
def mean_nll(model: OPTForCausalLM, ids: torch.Tensor, num_windows: int | None = None) -> float:
    """Return the mean negative log-likelihood of a token, in nats, over windows without overlap.

    `num_windows` takes so many windows at random, which stand for the whole text.
    """
    windows = ids[: ids.numel() // WINDOW * WINDOW].view(-1, WINDOW)
    if num_windows is not None:
        generator = torch.Generator().manual_seed(0)
        windows = windows[torch.randperm(len(windows), generator=generator)[:num_windows]]
    model.eval()
    losses = []
    for batch in windows.split(64):
        with torch.autocast("cpu", torch.bfloat16):
            losses.append(model(batch, labels=batch).loss.float().item() * len(batch))
    model.train()
    return sum(losses) / len(windows)


def learning_rate(step: int, num_steps: int) -> float:
    """Return the learning rate of a step: linear warm-up, then cosine decay to FINAL_LR."""
    if step < WARMUP_STEPS:
        return PEAK_LR * (step + 1) / WARMUP_STEPS
    done = (step - WARMUP_STEPS) / max(1, num_steps - WARMUP_STEPS)
    return FINAL_LR + 0.5 * (PEAK_LR - FINAL_LR) * (1 + math.cos(math.pi * done))


def epochs(ids: torch.Tensor, generator: torch.Generator):
    """Yield batches without end; each pass shifts the windows and shuffles them."""
    while True:
        offset = int(torch.randint(WINDOW, (1,), generator=generator))
        windows = ids[offset : offset + (ids.numel() - offset) // WINDOW * WINDOW].view(-1, WINDOW)
        order = torch.randperm(len(windows), generator=generator)
        yield from (windows[i] for i in order[: len(order) // BATCH * BATCH].view(-1, BATCH))


def build_model() -> OPTForCausalLM:
    """Return an OPT of 4 blocks and 1.8 M parameters with initial weights."""
    config = OPTConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=160,
        word_embed_proj_dim=160,
        ffn_dim=640,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=WINDOW,
        dropout=0.0,
        attention_dropout=0.0,
        pad_token_id=1,
        bos_token_id=2,
        eos_token_id=2,
    )
    return OPTForCausalLM(config)


def main() -> None:
    """Train, keep the best checkpoint on validation, and write the model directory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=19_300_000)
    parser.add_argument("--dest", type=Path, default=ASSETS / "model")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)

    tokenizer = fit_tokenizer(embedded("train"))
    train, validation, test = (stream(tokenizer, p) for p in ("train", "validation", "test"))
    num_steps = args.tokens // (WINDOW * BATCH)
    print(f"tokens: train {train.numel()}, validation {validation.numel()}, test {test.numel()}")
    print(f"{num_steps} steps = {args.tokens / train.numel():.1f} passes over train", flush=True)

    model = build_model()
    print(f"{model.num_parameters()} parameters", flush=True)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=PEAK_LR,
        betas=(0.9, 0.99),
        weight_decay=WEIGHT_DECAY,
        fused=True,
    )
    best, start = math.inf, time.monotonic()
    losses: list[float] = []  # of the batches since the last report
    for step, batch in zip(range(num_steps), epochs(train, generator)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, num_steps)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if (step + 1) % 400 == 0 or step + 1 == num_steps:
            nll = mean_nll(model, validation)
            seconds = time.monotonic() - start
            print(
                f"step {step + 1:5} train {sum(losses) / len(losses):.3f} validation {nll:.3f} "
                f"{(step + 1) * WINDOW * BATCH / seconds:.0f} tokens/s",
                flush=True,
            )
            losses.clear()
            if nll < best:
                best = nll
                model.save_pretrained(args.dest)
    tokenizer.save_pretrained(args.dest)
    model = OPTForCausalLM.from_pretrained(args.dest)
    for name, ids in (("train", train), ("validation", validation), ("test", test)):
        nll = mean_nll(model, ids, 1000 if name == "train" else None)
        print(f"{name:10} nll {nll:.4f} perplexity {math.exp(nll):.2f}")


if __name__ == "__main__":
    main()
