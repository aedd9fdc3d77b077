"""Which names that are printed beside numbers are those of metrics.

Names enter, as they are printed or in lower case; what they are leaves. Nothing here can fail.
"""

import re
from functools import lru_cache

from backprop.store.output.expressions import later

_MAX_NAMES = 1000  # of which is remembered what they are


def words(text: str) -> frozenset[str]:
    """The words of a list of them."""
    return frozenset(text.split())


# what a training measures: a number of that name is a metric wherever it stands
_STRONG = words(
    """
    acc accuracy auc auroc aucpr bce bleu bpb bpc cer ce crossentropy dice elbo entropy f1 fid fid50 iou jaccard
    kappa kid50 kl kld logloss loss losses mae mape mcc meteor miou mlogloss mrr mse ndcg nll objf perplexity ppl
    psnr reward rewards rew rmse rmsle rouge ssim top1 top5 wer xent
    """
)
# what training comes to, in words that mean other things elsewhere: metrics where there is a step, an epoch or one of
# the above, and where they are of a set of data ("test score")
_RESULTS = words("cost err error errors fitness obj objective return returns score scores")
# and these where there is a step, an epoch or a strong name on the same line: alone they may be settings
_WEAK = _RESULTS | words(
    """
    ap ap50 ap75 box clip cls cos critic dfl epsilon gnorm grad lr map map50 norm minp precision r2 rate recall seg
    sensitivity specificity temperature
    """
)
SETS = words("dev eval evaluation test testing train training val valid validation")
# what belongs to the name that follows
QUALIFIERS = SETS | words(
    """
    actor aux average avg best d disc ema final g gen grad learning lm macro masked mean micro mlm policy ppo pseudo q
    running smoothed total valid_0 valid_1 value weighted
    """
)
# what is measured of the machine or of the clock, not of the training
_NEVER = words(
    """
    batch batches bytes consumed cpu data date day days duration elapsed eta features fps gb gib gpu hour hours hrs
    id images instances io ips it iter iteration iterations iters label labels lines mb mem memory mfu mib min mins
    minute minutes ms num parameters params pid port predict python ram reader sample samples sec second seconds
    secs seed size speed targets time timing tok token tokens took torch ups version vram wall wpb wps
    """
)
# what a setting is called after: loss_weight, entropy_coef, iou_threshold
_OF_SETTINGS = words(
    """
    alpha beta bias coef coeff delta desired eps every factor freq gamma interval lambda margin pw scale t target
    thr thresh threshold thresholds type weight weights window
    """
)
# what is set before a training: a line with several of them, and without a metric, shows settings
_SETTINGS = words(
    """
    batch_size batchsize clip decay_epoch decay_rate dropout epochs gamma hidden_size learning_rate lr momentum
    num_workers seed testsize trainsize warmup weight_decay
    """
)
_PARTS = later(r"[A-Z]?[a-z]+\d*|[A-Z]+(?![a-z])\d*|\d+")
_AT_RANK = later(r"(?:acc|prec|hit|recall)s?@\d")
# how much is done in a second: tokens_per_second, it/s, TFLOP/s/device
_THROUGHPUT = later(
    r"(?:^|[/_ ])(?:fps|tps|wps|mfu|throughput)$"
    r"|(?:examples?|flops?|frames?|images?|imgs?|iters?|its?|samples?|seqs?|sequences?|steps?|tok|tokens?|words?)"
    r"(?:/|_?per_?)(?:s|sec|second)(?:$|[/_])",
    re.IGNORECASE,
)


# a script prints the same few names on each line
@lru_cache(maxsize=_MAX_NAMES)
def parts(name: str) -> tuple[str, ...]:
    """The words of a name, in lower case."""
    return tuple(part.lower() for part in _PARTS.findall(name.replace("IoU", "Iou")))


@lru_cache(maxsize=_MAX_NAMES)
def is_strong(word: str, name: str) -> bool:
    """Whether a number of this name, and with this last word, is a metric: "loss weights" are none."""
    if not _OF_SETTINGS.isdisjoint(parts(word)):
        return False
    return has_strong_word(word) or _AT_RANK.search(name) is not None


def has_strong_word(name: str) -> bool:
    """Whether a word of it is what trainings measure, and nothing else."""
    return not _STRONG.isdisjoint(parts(name))


@lru_cache(maxsize=_MAX_NAMES)
def is_weak(name: str) -> bool:
    """Whether a number of this name is a metric if something else on the line is of a training."""
    return not _WEAK.isdisjoint(parts(name)) and _OF_SETTINGS.isdisjoint(parts(name))


@lru_cache(maxsize=_MAX_NAMES)
def is_result(name: str) -> bool:
    """Whether it is what training comes to, and never a setting."""
    return not _RESULTS.isdisjoint(parts(name)) and _OF_SETTINGS.isdisjoint(parts(name))


@lru_cache(maxsize=_MAX_NAMES)
def is_result_of_a_set(name: str) -> bool:
    """Whether it is a result on a set of data, which is a metric anywhere: `Test score: 0.91`."""
    return is_result(name) and not SETS.isdisjoint(parts(name))


@lru_cache(maxsize=_MAX_NAMES)
def is_setting(name: str) -> bool:
    """Whether it is the name of a setting."""
    return name.lower() in _SETTINGS


@lru_cache(maxsize=_MAX_NAMES)
def is_throughput(name: str) -> bool:
    """Whether it is how much is done in a second."""
    return _THROUGHPUT.search(name) is not None


@lru_cache(maxsize=_MAX_NAMES)
def is_of_machine(name: str) -> bool:
    """Whether it is of the machine or of the clock, and no metric."""
    is_never = not _NEVER.isdisjoint(parts(name)) or parts(name)[-2:] == ("n", "updates")
    return is_never and not is_throughput(name)


@lru_cache(maxsize=_MAX_NAMES)
def is_column(name: str) -> bool:
    """Whether a column of a table of results is a metric: whatever is neither of the machine nor a setting."""
    return not is_of_machine(name) and _OF_SETTINGS.isdisjoint(parts(name))
