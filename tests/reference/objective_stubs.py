"""Runs the loss functions of TRL's trainers, unchanged, on given per-token log-probs in float64.

No trainer is built: the method is called on a stand-in for `self` that has the attributes it reads, and on a stand-in for the model
that returns the given numbers. What makes that possible, and the only changes:
- torch's default type is float64 and Tensor.float() returns float64 while TRL's code runs (exo_pair's constants, ORPO's odds and
  alpha_divergence are float32 otherwise).
- DPOTrainer._compute_loss has a table of exponent limits per dtype that lacks float64: the limit of float32, 80, is put in. Its
  weighting (WPO) multiplies the loss in place, which PyTorch refuses in the backward pass of hinge and for sft: `out_of_place=True`
  multiplies out of place, to say what those would be.
- ORPO and CPO read log-probs off logits. Here the "logits" of a position are its log-prob alone, and the two functions that they use
  (selective_log_softmax, nn.CrossEntropyLoss) return it; masks, shifts, sums and means are TRL's.
Pinned: torch 2.13.0, trl 1.16.0 (see common.py).
"""

import contextlib
import inspect
import textwrap
import types
from collections import defaultdict

import torch
from torch.nn.utils.rnn import pad_sequence

WIDE = torch.float64


class Accelerator:
    device = torch.device("cpu")
    num_processes, is_main_process, use_distributed, parallelism_config = 1, True, False, None

    @staticmethod
    def gather(x):
        return x

    gather_for_metrics = gather

    @staticmethod
    def autocast():
        return contextlib.nullcontext()


class Model(torch.nn.Module):
    """Returns what it was given, whatever it is asked."""

    is_gradient_checkpointing = False

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, *args, **kwargs):
        return self.answer(*args, **kwargs)


class Reduced:
    """nn.CrossEntropyLoss on "logits" that are the log-probs of the labels."""

    def __call__(self, logits, labels):
        return -logits[labels != -100, 0].mean()


@contextlib.contextmanager
def wide(*modules):
    """float64 for float32; see the top of the file. `modules` get the two functions that read log-probs off logits."""
    narrow, entropy, default = torch.Tensor.float, torch.nn.CrossEntropyLoss, torch.get_default_dtype()
    selective = [m.selective_log_softmax for m in modules]
    torch.set_default_dtype(WIDE)
    torch.Tensor.float = torch.Tensor.double
    if modules:
        torch.nn.CrossEntropyLoss = Reduced
    for m in modules:
        m.selective_log_softmax = lambda logits, labels: logits[..., 0]
    try:
        yield
    finally:
        torch.Tensor.float, torch.nn.CrossEntropyLoss = narrow, entropy
        torch.set_default_dtype(default)
        for m, f in zip(modules, selective):
            m.selective_log_softmax = f


def stand_in(cls, **attributes):
    """An object whose methods are those of cls, without its constructor."""
    made = object.__new__(type("StandIn", (), {k: v for k, v in vars(cls).items() if callable(v) or isinstance(v, staticmethod)}))
    common = dict(accelerator=Accelerator(), aux_loss_enabled=False, _tp_size=1, _total_train_tokens=0,
                  _metrics={"train": defaultdict(list)}, _stored_metrics={"train": defaultdict(list)})
    made.__dict__.update(common | attributes)
    return made


def patched_dpo_loss(out_of_place=False):
    from trl.trainer import dpo_trainer

    source = textwrap.dedent(inspect.getsource(dpo_trainer.DPOTrainer._compute_loss))
    limit, weighting, space = "torch.float32: 80.0}", "per_sequence_loss *= ", {}
    assert source.count(limit) == source.count(weighting) == 1
    source = source.replace(limit, "torch.float32: 80.0, torch.float64: 80.0}")
    if out_of_place:
        source = source.replace(weighting, "per_sequence_loss = per_sequence_loss * ")
    exec(source, vars(dpo_trainer), space)
    return space["_compute_loss"]


def at_tokens(rows, prompts, width, values, dtype=WIDE):
    """[rows, width - 1]: values of each answer's tokens where the token is the label, zero elsewhere. A tensor stays in the graph."""
    out = []
    for i in range(rows):
        v = values[i] if torch.is_tensor(values[i]) else torch.tensor(values[i], dtype=dtype)
        out.append(torch.cat([torch.zeros(prompts[i] - 1, dtype=dtype), v,
                              torch.zeros(width - prompts[i] - len(v), dtype=dtype)]))
    return torch.stack(out)


def leaf(answer):
    return torch.tensor(answer["logps"], dtype=WIDE, requires_grad=True)


def collated(answers):
    """completion_mask and attention_mask [rows, width], and the width, right-padded."""
    prompts, lengths = [a["prompt_tokens"] for a in answers], [len(a["logps"]) for a in answers]
    done = pad_sequence([torch.tensor([0] * p + [1] * n) for p, n in zip(prompts, lengths)], batch_first=True)
    seen = pad_sequence([torch.ones(p + n, dtype=torch.long) for p, n in zip(prompts, lengths)], batch_first=True)
    return done, seen, prompts, done.size(1)


def outputs(answers, prompts, width, logps):
    tokens = {k: at_tokens(len(answers), prompts, width, [a[k] for a in answers])
              for k in ("entropy", "mean_logits", "log_sum_sq_probs")}
    top = at_tokens(len(answers), prompts, width, [[float(x) for x in a["is_top1"]] for a in answers]).bool()
    mask = at_tokens(len(answers), prompts, width, [[1.0] * len(a["logps"]) for a in answers]).bool()
    return types.SimpleNamespace(log_probs=at_tokens(len(answers), prompts, width, logps), is_top1=top, label_mask=mask, **tokens)


def metrics_of(trainer):
    return {k: sum(v) / len(v) for k, v in trainer._metrics["train"].items()}


DPO = dict(loss_type=["sigmoid"], loss_weights=None, beta=0.1, label_smoothing=0.0, f_divergence_type="reverse_kl",
           f_alpha_divergence_coef=0.5, ld_alpha=None, use_weighting=False, discopop_tau=0.05)


def dpo(pairs, loss=None, **params):
    """(mean loss, {"chosen": [[d mean loss / d token log-prob]], "rejected": ...}, metrics) of DPOTrainer._compute_loss."""
    from trl.trainer.dpo_trainer import DPOTrainer

    p = DPO | params
    answers = [x["chosen"] for x in pairs] + [x["rejected"] for x in pairs]
    done, seen, prompts, width = collated(answers)
    logps = [leaf(a) for a in answers]
    given = outputs(answers, prompts, width, logps)
    with wide():
        reference = types.SimpleNamespace(log_probs=at_tokens(len(answers), prompts, width, [a["ref_logps"] for a in answers]))
        model = Model(lambda **_: given)
        me = stand_in(DPOTrainer, model=model, ref_model=Model(lambda **_: reference), beta=p["beta"], precompute_ref_logps=False,
                      loss_types=p["loss_type"], loss_weights=p["loss_weights"] or [1.0] * len(p["loss_type"]),
                      ld_alpha=p["ld_alpha"], f_divergence_type=p["f_divergence_type"],
                      f_alpha_divergence_coef=p["f_alpha_divergence_coef"], label_smoothing=p["label_smoothing"],
                      use_weighting=p["use_weighting"], args=types.SimpleNamespace(discopop_tau=p["discopop_tau"],
                                                                                   gradient_checkpointing_kwargs=None))
        batch = {"input_ids": torch.zeros_like(done), "attention_mask": seen, "completion_mask": done}
        value = (loss or patched_dpo_loss())(me, model, batch, False)
        value.backward()
    grads = [x.grad.tolist() for x in logps]
    return value.item(), {"chosen": grads[:len(pairs)], "rejected": grads[len(pairs):]}, metrics_of(me)


def kto(rows, **params):
    """KTOTrainer._compute_loss on rows of {answer..., "label", "kl": {"logp", "ref_logp"}}; a KL sequence is one token here."""
    from trl.trainer.kto_trainer import KTOTrainer

    p = dict(loss_type="kto", beta=0.1, desirable_weight=1.0, undesirable_weight=1.0) | params
    done, seen, prompts, width = collated(rows)
    logps = [leaf(a) for a in rows]
    given = outputs(rows, prompts, width, logps)
    reference = types.SimpleNamespace(log_probs=at_tokens(len(rows), prompts, width, [a["ref_logps"] for a in rows]))

    def answer(main, key):
        kl = types.SimpleNamespace(log_probs=torch.tensor([[a["kl"][key]] for a in rows], dtype=WIDE))
        return lambda input_ids, **_: kl if input_ids.size(1) == 2 and input_ids[0, 0] == 7 else main

    with wide():
        model = Model(answer(given, "logp"))
        me = stand_in(KTOTrainer, model=model, ref_model=Model(answer(reference, "ref_logp")), precompute_ref_logps=False,
                      calculate_KL=p["loss_type"] == "kto", args=types.SimpleNamespace(gradient_checkpointing_kwargs=None), **p)
        pair = torch.full((len(rows), 2), 7)
        batch = {"input_ids": torch.zeros_like(done), "attention_mask": seen, "completion_mask": done,
                 "label": torch.tensor([a["label"] for a in rows]), "KL_input_ids": pair, "KL_attention_mask": torch.ones_like(pair),
                 "KL_completion_mask": torch.tensor([[0, 1]] * len(rows))}
        value = me._compute_loss(model, batch, False)
        value.backward()
    return value.item(), [x.grad.tolist() for x in logps], metrics_of(me)


def padded_pairs(pairs):
    """Batch of the old-style trainers, and the "logits" that are the log-probs of the labels."""
    answers = [x["chosen"] for x in pairs] + [x["rejected"] for x in pairs]
    done, seen, prompts, width = collated(answers)
    prompt = [torch.tensor(a.get("prompt_logps", [-1.0] * (p - 1)), dtype=WIDE, requires_grad=True) for a, p in zip(answers, prompts)]
    assert all(len(x) == p - 1 for x, p in zip(prompt, prompts))
    logps = [leaf(a) for a in answers]
    whole = [torch.cat([a, b, torch.zeros(width - len(a) - len(b), dtype=WIDE)]) for a, b in zip(prompt, logps)]
    labels = torch.where(done == 1, torch.zeros_like(done), -100)
    n, batch = len(pairs), {}
    for name, at in (("chosen", slice(0, n)), ("rejected", slice(n, 2 * n))):
        batch |= {f"{name}_input_ids": torch.zeros_like(done[at]), f"{name}_attention_mask": seen[at], f"{name}_labels": labels[at]}
    return batch, torch.stack(whole)[..., None], logps, prompt


def unreferenced(trainer, module, pairs, attributes):
    batch, logits, logps, prompt = padded_pairs(pairs)
    with wide(module):
        model = Model(lambda *_, **__: types.SimpleNamespace(logits=logits))
        me = stand_in(trainer, model=model, is_encoder_decoder=False, padding_value=0, pad_token_id=0, **attributes)
        value, metrics = me.get_batch_loss_metrics(model, batch)
        value.backward()
    n = len(pairs)
    zero = [torch.zeros_like(x) if x.grad is None else x.grad for x in logps + prompt]
    grads = [g.tolist() for g in zero]
    out = {"chosen": grads[:n], "rejected": grads[n:2 * n], "chosen_prompt": grads[2 * n:3 * n], "rejected_prompt": grads[3 * n:]}
    return value.item(), out, {k: float(v) for k, v in metrics.items() if not k.startswith("logits/")}


def orpo(pairs, beta=0.1):
    from trl.experimental.orpo import orpo_trainer

    return unreferenced(orpo_trainer.ORPOTrainer, orpo_trainer, pairs, dict(beta=beta))


def cpo(pairs, **params):
    from trl.experimental.cpo import cpo_trainer

    p = dict(loss_type="sigmoid", beta=0.1, label_smoothing=0.0, cpo_alpha=1.0, simpo_gamma=0.5, alpha=0.0) | params
    if p["loss_type"] == "alphapo":  # as CPOConfig.__post_init__ does
        p |= dict(loss_type="simpo", cpo_alpha=0.0)
    return unreferenced(cpo_trainer.CPOTrainer, cpo_trainer, pairs, p)


def reward(chosen, rejected, margin=None, center=None, tokens=0):
    from trl.trainer.reward_trainer import RewardTrainer

    with wide():
        scores = torch.tensor(chosen + rejected, dtype=WIDE, requires_grad=True)
        model = Model(lambda **_: types.SimpleNamespace(logits=scores[:, None]))
        me = stand_in(RewardTrainer, model=model, args=types.SimpleNamespace(center_rewards_coefficient=center))
        batch = {"attention_mask": torch.ones(1, tokens, dtype=torch.long)}
        if margin is not None:
            batch["margin"] = torch.tensor(margin, dtype=WIDE)
        value = me.compute_loss(model, batch)
        value.backward()
    g = scores.grad.tolist()
    return value.item(), {"chosen": g[:len(chosen)], "rejected": g[len(chosen):]}, metrics_of(me)


def sft(rows, loss_type="nll", num_items=None):
    from trl.trainer.sft_trainer import SFTTrainer

    done, seen, prompts, width = collated(rows)
    logps = [leaf(a) for a in rows]
    given = outputs(rows, prompts, width, logps)
    with wide():
        model = Model(lambda **_: given)
        me = stand_in(SFTTrainer, model=model, compute_loss_func=None, label_smoother=None, get_tp_size=lambda: 1,
                      args=types.SimpleNamespace(loss_type=loss_type, average_tokens_across_devices=True))
        value = SFTTrainer.compute_loss(me, model, {"attention_mask": seen}, num_items_in_batch=num_items)
        value.backward()
    return value.item(), [x.grad.tolist() for x in logps], metrics_of(me)
