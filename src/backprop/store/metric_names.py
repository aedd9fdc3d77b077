"""Rules by name of a metric: which values are better, does it measure quality, which one is the main metric."""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache

from backprop.records import Goal, RunView

SAMPLED_LOSS = "loss"  # loss/1, loss/2: of optimizers that take turns
# the usual names of a training loss, the best first
_LOSSES = ("loss", "train_loss", "train/loss", "training_loss", "loss/train", "train-loss", "training/loss")
# what trainings minimize that is not called a loss: LightGBM's l2, XGBoost's rmse
_LIKE_LOSSES = ("nll", "mse", "l2", "rmse", "mae", "l1", "mape", "error")
_PROGRESS = frozenset({"epoch", "total_steps"})
# of a parameter, by the words of its name: seed, random_state, trainer.seed, dataSeed; not n_seeds
_SEED = re.compile(r"(.* )?(seed\d*|(random|rng) state|seed everything)|(?!(.* )?(n|num|number) )(.* )?seeds")
_WORD = re.compile(r"[A-Z]+(?![a-z])\d*|[A-Z]?[a-z]+\d*|\d+")
_TRAINING = re.compile(r"^(train|training)[_/.-]|[_/.-](train|training)$")
_HELD_OUT = re.compile(
    r"^(val|valid|validation|eval|evaluation|dev|test)[_/.-]|[_/.-](val|valid|validation|eval|dev|test)$"
)
# one number for all of a training
_SUMMARY = re.compile(r"^(initial|final|best|min)[_/.-]|[_/.-](initial|final|best|min)$")
# words of a metric's name, as people write them
_GREATER_IS_BETTER = re.compile(
    r"acc|accuracy|ap|auc|auprc|auroc|bleu|correlation|dice|explained|f1|fscore|hits?|iou|jaccard|kappa|map|mcc|meteor|miou|mrr"
    r"|ndcg|precision|psnr|r2|recall|returns?|rew|rewards?|rouge|score|sensitivity|specificity|ssim|throughput|top\d|win|winrate"
)
_SMALLER_IS_BETTER = re.compile(
    r"\w*loss|\w*losses|m?errors?|err|ade|bpb|bpc|bpd|brier|cer|chamfer|cost|deviance|ece|eer|fde|fid|huber|kid|l1|l2|lpips|mae"
    r"|mape|mase|mer|mse|msle|nll|perplexity|pinball|ppl|regret|rmse|rmsle|smape|ter|wape|wer|xent"
)
# what is neither better the greater nor the smaller it is
_NO_QUALITY = re.compile(
    r"batch|beta|clipfrac|count|epochs?|fps|iter|iteration|kl|len|length|lr|momentum|norm|num|rate|samples|size|sps"
    r"|runtime|steps?|time|tokens|total|updates"
)


def goal(name: str, given: Goal | None = None) -> Goal | None:
    """Which values of a metric are better; None: nobody knows, or it measures no quality.

    given: by the user or the script; without it, the name is judged: accuracy, f1, reward; loss, wer, perplexity.
    """
    return given or _goal_by_name(name)


@lru_cache(maxsize=10_000)
def _goal_by_name(name: str) -> Goal | None:
    words = _words(name)
    if not is_quality(name):
        return None
    if not {"loss", "error"}.intersection(words) and _has(_GREATER_IS_BETTER, words):
        return Goal.MAX
    return Goal.MIN if _has(_SMALLER_IS_BETTER, words) else None


def _has(pattern: re.Pattern[str], words: Collection[str]) -> bool:
    """Whether it matches one of the words, without the digits at its end or with them."""
    return any(pattern.fullmatch(known) for word in words for known in (word, word.rstrip("0123456789")))


def common_goal(name: str, views: Sequence[RunView]) -> Goal | None:
    """The goal of a metric for all of these runs; None also where they contradict each other."""
    given = {view.goals[name] for view in views if name in view.goals}
    return goal(name, *given) if len(given) <= 1 else None


def without_goal(names: Collection[str], views: Sequence[RunView]) -> list[str]:
    """The metrics of which nobody knows which values are better, although they may measure quality."""
    return [name for name in names if is_quality(name) and common_goal(name, views) is None]


def is_seed(name: str) -> bool:
    """Whether a parameter is a seed: runs that differ in it only are replicates."""
    return _SEED.fullmatch(" ".join(_words(name))) is not None


def is_progress(name: str) -> bool:
    """Whether it is progress, such as an epoch number, and shown only if it is asked for by name."""
    return name in _PROGRESS


def is_quality(name: str) -> bool:
    """Whether it measures quality, judged by the name: not lr, epoch, grad_norm, total_steps."""
    words = _words(name)
    return bool({"loss", "error"}.intersection(words)) or not any(map(_NO_QUALITY.fullmatch, words))


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(name)]


def best(view: RunView, name: str) -> tuple[float, int] | None:
    """The best value of a metric of a run and the step it was reached at.

    None when it has no finite value, or nobody knows which are better.
    """
    summary, wanted = view.summaries.get(name), goal(name, view.goals.get(name))
    if summary is None or wanted is None:
        return None
    value, step = (
        (summary.greatest, summary.greatest_step) if wanted is Goal.MAX else (summary.least, summary.least_step)
    )
    return None if value is None or step is None else (value, step)


@lru_cache(maxsize=10_000)
def is_training_loss(name: str) -> bool:
    """Whether a metric is a loss that is trained on, judged by its name: train_loss, Loss_D.

    Not val_loss, and not final_loss, which is no curve.
    """
    name = name.lower()
    return "loss" in name and not _HELD_OUT.search(name) and not _SUMMARY.search(name)


def has_loss_curve(counts: Mapping[str, int], sampled: Collection[str]) -> bool:
    """Whether these training losses, with numbers of points, take the place of the sampled ones.

    A curve does, and so does any point of the same name.
    """
    return any(count > 1 or name in sampled for name, count in counts.items())


def replaced_samples(names: Collection[str]) -> Collection[str]:
    """The sampled losses that count no more once these are sampled: `loss`, if optimizers turn out to take turns.

    It came before the others of a session: see trainer/hooks/pytorch/sampled_loss.py.
    """
    return (SAMPLED_LOSS,) if any(name.startswith(f"{SAMPLED_LOSS}/") for name in names) else ()


def main_metric(names: Collection[str]) -> str | None:
    """The main metric of a run: its training loss, by any of the usual names, else another loss, else an error.

    It is what `loss` means in a filter and in --sort. names: of the run's metrics.
    """
    return min((name for name in names if loss_rank(name) is not None), key=_loss_order, default=None)


def commonest_main_metric(views: Sequence[RunView]) -> str | None:
    """What most of these runs are about: the only metric whose goal they were given, else their main metric.

    None: none has one.
    """
    given = {name for view in views for name in view.goals if name in view.summaries}
    if len(given) == 1:
        return given.pop()
    mains = Counter(main for view in views if (main := main_metric(view.summaries)) is not None)
    return next((main for main, _ in mains.most_common(1)), None)


def _loss_order(name: str) -> tuple[int | None, str]:
    return loss_rank(name), name


@lru_cache(maxsize=10_000)
def loss_rank(name: str) -> int | None:
    """Where a metric stands among those that may be a run's loss: a lower rank is better. None: it is none.

    The usual names come first, losses on held-out data late. A bonus (entropy_loss) is a poor one, and what only stands
    in a folder of losses (losses/approx_kl) is none.
    """
    small = name.lower()
    folder, _, last = small.rpartition("/")
    if name in _LOSSES:
        return _LOSSES.index(name)
    if "loss" in last or folder == "loss":
        is_bonus = "entropy" in last and "cross" not in last
        return len(_LOSSES) + 2 * bool(_HELD_OUT.search(small)) + is_bonus
    words = _words(last)
    return next((len(_LOSSES) + 4 + place for place, word in enumerate(_LIKE_LOSSES) if word in words), None)


def twin(name: str, names: Collection[str]) -> str | None:
    """The same metric on held-out data, by any of the usual names: val_loss for loss, eval/loss for train/loss."""
    core = _TRAINING.sub("", name)
    if _HELD_OUT.sub("", name) != name:
        return None
    return next((other for other in names if _HELD_OUT.sub("", other) == core != other), None)


def leading_metrics(views: Sequence[RunView]) -> list[str]:
    """The metrics to look at first: the main one of each run, then their twins on held-out data."""
    names = all_names(views)
    mains = list(dict.fromkeys(main for view in views if (main := main_metric(view.summaries)) is not None))
    twins = [held_out for main in mains if (held_out := twin(main, names)) is not None]
    return list(dict.fromkeys([*mains, *twins]))


def in_order(views: Sequence[RunView]) -> list[str]:
    """All metrics of these runs: the main one, its twin on held-out data, other measures of quality, then the rest."""
    names = all_names(views)
    return list(dict.fromkeys([*leading_metrics(views), *filter(is_quality, names), *names]))


def all_names(views: Sequence[RunView]) -> list[str]:
    """The metrics that these runs have, most common first, then by name."""
    counts: dict[str, int] = {}
    for view in views:
        for name in view.summaries:
            counts[name] = counts.get(name, 0) + 1
    return sorted(counts, key=lambda name: (-counts[name], name))
