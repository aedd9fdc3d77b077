"""Classifies a file that a script has written: a training state, only weights, or not a checkpoint.

Needs no framework, and executes nothing from the file: it searches for keys in the bytes of pickles (also in zip files
of PyTorch and stable-baselines3, and between arrays by joblib) and of msgpack, and in the names of NumPy's arrays. This
is a heuristic: a file without an optimizer state, and without a step or an epoch beside a model, is not a checkpoint.
"""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from typing import Any, Callable, Iterable, Iterator, NamedTuple, Optional

STEP_KEYS = (
    "global_step",
    "step",
    "iteration",
    "iterations",
    "iter",
    "iter_num",  # nanoGPT
    "num_updates",  # fairseq
    "steps",
    "n_iter",
    "num_timesteps",  # stable-baselines3
)
EPOCH_KEYS = ("epoch", "current_epoch", "epoch_num", "n_epoch", "epochs_done", "epochs_trained")
OPTIMIZER_KEYS = (
    "opt",
    "optim",
    "optimizer",
    "optimizers",
    "opt_state",
    "opt_states",
    "optim_state",
    "optimizer_state",
    "optimizer_states",
    "opt_state_dict",
    "optim_state_dict",
    "optimizer_state_dict",
    "optimizer_dict",
    "optimizer_G",
    "optimizer_D",
    "optG",
    "optD",
    "momentum",
    "velocity",
    "_optimizer",  # scikit-learn's MLPs
)
_MODEL_KEYS = (
    *("model", "net", "network", "module", "weights", "params", "parameters", "variables", "theta", "w", "W", "policy"),
    *(
        "state_dict",
        "model_state",
        "model_state_dict",
        "model_dict",
        "ema",
        "generator",
        "discriminator",
        "netG",
        "netD",
    ),
    *("actor", "critic", "backbone", "_parameters"),
    # scikit-learn's estimators that learn in parts
    *("coef_", "coefs_", "cluster_centers_", "feature_count_", "class_count_", "components_"),
)
_KINDS: dict[bytes, str] = {
    name.encode(): kind
    for kind, names in (
        ("step", STEP_KEYS),
        ("epoch", EPOCH_KEYS),
        ("optimizer", OPTIMIZER_KEYS),
        ("model", _MODEL_KEYS),
    )
    for name in names
}
_END_BYTES = 1 << 20  # of a large file, and so much of its beginning: keys stand there, tensors in between
_MEMBER_BYTES = 4 << 20
_FRAME = b"\x95"
_LENGTH_BYTES = {_FRAME: 8, b"\x8e": 8, b"\x8d": 8, b"\x96": 8, b"B": 4, b"X": 4}  # what stands between frames

# a key of up to 32 bytes as pickle writes it: SHORT_BINUNICODE, or BINUNICODE as protocol 2 has it; maybe remembered
_KEY = re.compile(
    rb"(?:\x8c([\x01-\x20])|X([\x01-\x20])\0\0\0)("
    + b"|".join(re.escape(name) for name in sorted(_KINDS, key=lambda name: -len(name)))
    + rb")(?:\x94|q.|r....)?(?=(.{1,5}))",
    re.DOTALL,
)
_OBJECT = b"}]()chj"  # what a dict, list, tuple or object begins with, or what was there before
# {"optimizer": {"name": "adam", "lr": 0.1}} is a configuration
_SETTINGS = re.compile(
    rb"}(?:\x94|q.|r....)?\(?(?:\x8c.|X.\0\0\0)(?:name|type|_target_|class_name|lr|learning_rate)", re.DOTALL
)
_ARRAYS = (b"numpy", b"_rebuild_", b"jax", b"tensorflow", b"paddle", b"cupy", b"mlx", b"array\n", b"array\x94")
_WEIGHT = re.compile(rb"(?<![a-z_])weight(?!_)")  # of a module; weight_decay is an optimizer's
_DCP_OPTIMIZER = (b"param_groups", b"exp_avg", b"momentum_buffer", b"optim")
_WEIGHT_NAME = re.compile(r"weight|bias|kernel|param|theta|coef|(^|[._/])[wWbB]\d*$|(^|/)vars/\d")  # the last is Keras'
_OPTIMIZER_NAME = re.compile(r"(^|[._/])(opt|optim|optimizer|adam|mom|momentum|velocity|exp_avg)", re.IGNORECASE)


class CheckpointContent(NamedTuple):
    """What a checkpoint holds."""

    is_state: bool  # it has an optimizer state; otherwise only weights
    step: Optional[int] = None
    epoch: Optional[int] = None

    @property
    def is_counted(self) -> bool:
        """Whether it stores a step or an epoch, which final weights do not."""
        return self.step is not None or self.epoch is not None


def holds_state(path: str) -> bool:
    """Whether a checkpoint seems to be a training state; a folder counts as one."""
    try:
        content = look(path)
    except OSError:  # gone
        return False
    return os.path.isdir(path) or (content is not None and content.is_state)


def look(path: str) -> Optional[CheckpointContent]:
    """What a file or folder holds; None if it is not a checkpoint, or not complete. Raises OSError."""
    if os.path.isdir(path):
        return _folder(path)
    with open(path, "rb") as file:
        head = file.read(2)
        file.seek(0)
        if head == b"PK":
            return _archive(file)
        data = _frames(file) if head in (b"\x80\4", b"\x80\5") else None
        data = data or _ends_of(file)
    if head[:1] in (b"\x1f", b"\x78"):
        data = _decompressed(data)
    if data[:1] == b"\x80" and b"\2" <= data[1:2] <= b"\5":
        return _of_pickles([data]) if data.endswith(b".") else None
    if path.endswith(".msgpack") or "." not in os.path.basename(path).lstrip("."):
        return _of_msgpack(data)
    return None


def _ends_of(file: Any) -> bytes:
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    if size <= 2 * _END_BYTES:
        return bytes(file.read())
    beginning = file.read(_END_BYTES)
    file.seek(size - _END_BYTES)
    return bytes(beginning + file.read())


def _frames(file: Any) -> Optional[bytes]:
    """The data of pickle protocol 4 or 5 without large arrays; None for other formats.

    Pickle writes small objects together in frames, and large ones in between; each has its length. An incomplete file
    does not end with a dot. (Joblib inserts arrays without a length.)
    """
    file.seek(2)
    found, alone = [b"\x80\4"], 0
    size = os.fstat(file.fileno()).st_size
    while code := file.read(1):
        digits = _LENGTH_BYTES.get(code)
        if digits is None:  # pickle writes up to three bytes without a frame
            found.append(code)
            alone += 1
            if alone > 3:
                return None
            continue
        alone = 0
        length = int.from_bytes(file.read(digits), "little")
        if file.tell() + length > size:
            return b"\x80\4"
        if code == _FRAME and length <= _MEMBER_BYTES:
            found.append(file.read(length))
        else:
            file.seek(length, os.SEEK_CUR)
    return b"".join(found)


def _decompressed(data: bytes) -> bytes:
    try:
        return zlib.decompressobj(47).decompress(data, 2 * _END_BYTES)  # 47: zlib's and gzip's headers
    except zlib.error:
        return b""


# -- pickles


class _PickledKeys:
    """Known keys in pickled data, and their values."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.objects: set[str] = set()
        self.has_arrays = self.has_param_groups = self.has_weights = False

    def add(self, data: bytes) -> None:
        for match in _KEY.finditer(data):
            name = match[3]
            if (match[1] or match[2])[0] != len(name):
                continue
            kind, number = _KINDS[name], _number(match[4])
            if number is not None:
                self.numbers.setdefault(kind, number)
            elif (match[4][0] in _OBJECT and not _SETTINGS.match(data, match.end())) or _is_global(data, match.end()):
                self.objects.add(kind)
        self.has_arrays = self.has_arrays or any(word in data for word in _ARRAYS)
        self.has_param_groups = self.has_param_groups or b"param_groups" in data
        self.has_weights = self.has_weights or _WEIGHT.search(data) is not None

    def content(self) -> Optional[CheckpointContent]:
        step, epoch = self.numbers.get("step"), self.numbers.get("epoch")
        if not (self.has_arrays or step is not None or epoch is not None):  # a configuration
            return None
        has_model = "model" in self.objects or self.has_weights
        if "optimizer" in self.objects or (self.has_param_groups and has_model):
            return CheckpointContent(is_state=True, step=step, epoch=epoch)
        return CheckpointContent(is_state=False, step=step, epoch=epoch) if has_model else None


def _of_pickles(parts: Iterator[bytes] | list[bytes]) -> Optional[CheckpointContent]:
    keys = _PickledKeys()
    for data in parts:
        keys.add(data)
    return keys.content()


def _number(value: bytes) -> Optional[int]:
    """A non-negative integer in pickle's BININT1, BININT2 or BININT format; None for anything else."""
    size = {b"K": 1, b"M": 2, b"J": 4}.get(value[:1])
    if size is None or len(value) <= size:
        return None
    number = int.from_bytes(value[1 : 1 + size], "little", signed=size == 4)
    return number if number >= 0 else None


def _is_global(data: bytes, at: int) -> bool:
    """Whether an object of a class begins here, in protocol 4: module, name, STACK_GLOBAL."""
    for _ in range(2):
        if data[at : at + 1] == b"h":  # a memoized string
            at += 2
            continue
        if data[at : at + 1] != b"\x8c" or at + 1 >= len(data):
            return False
        at += 2 + data[at + 1]
        at += data[at : at + 1] == b"\x94"
    return data[at : at + 1] == b"\x93"


# -- zip files


def _archive(file: Any) -> Optional[CheckpointContent]:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            if "model.weights.h5" in names:  # Keras; a group of HDF5 stands in it by its name
                return CheckpointContent(is_state=b"optimizer" in _read(archive, "model.weights.h5", 64 << 20))
            if names and all(name.endswith(".npy") for name in names):
                return _arrays(archive, names)
            return _pickles_in(archive, names)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError):
        return None


def _read(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    with archive.open(name) as member:
        return member.read(limit)


def _pickles_in(archive: zipfile.ZipFile, names: list[str]) -> Optional[CheckpointContent]:
    pickles = [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".pth"))]
    content = _of_pickles(_read(archive, name, _MEMBER_BYTES) for name in pickles)
    if content is None or "data" not in names:
        return content
    found = re.search(rb'"num_timesteps": (\d+)', _read(archive, "data", _MEMBER_BYTES))  # stable-baselines3
    return content if found is None else content._replace(step=int(found[1]))


def _arrays(archive: zipfile.ZipFile, names: list[str]) -> Optional[CheckpointContent]:
    """The content of a file by numpy.savez, where a step or an epoch is an array of one integer."""
    keys = [name[: -len(".npy")] for name in names]
    return of_names(keys, lambda key: _scalar(_read(archive, key + ".npy", 512)))


def of_names(keys: Iterable[str], number_of: Callable[[str], Optional[int]]) -> Optional[CheckpointContent]:
    """What arrays with these names are. number_of: returns the value of a scalar integer array, or None."""
    step = epoch = None
    has_optimizer = has_weights = has_others = False
    for key in keys:
        kind = _KINDS.get(key.encode())
        number = number_of(key) if kind in {"step", "epoch"} else None
        if number is not None and kind == "step":
            step = number if step is None else step
        elif number is not None:
            epoch = number if epoch is None else epoch
        elif _OPTIMIZER_NAME.search(key):
            has_optimizer = True
        else:
            has_weights = has_weights or kind == "model" or _WEIGHT_NAME.search(key) is not None
            has_others = True
    is_counted = step is not None or epoch is not None
    if has_optimizer and has_others and (has_weights or is_counted):
        return CheckpointContent(is_state=True, step=step, epoch=epoch)
    return (
        CheckpointContent(is_state=False, step=step, epoch=epoch)
        if has_weights or (is_counted and has_others)
        else None
    )


def _scalar(data: bytes) -> Optional[int]:
    """The integer in a .npy file; None if it holds something else."""
    size = {b"i8": 8, b"i4": 4, b"u8": 8, b"u4": 4}
    found = re.search(rb"'descr': '<([iu][48])', 'fortran_order': False, 'shape': \(\), \}\s*\n", data)
    if found is None:
        return None
    number = data[found.end() : found.end() + size[found[1]]]
    return int.from_bytes(number, "little", signed=found[1].startswith(b"i"))


# -- others


def _of_msgpack(data: bytes) -> Optional[CheckpointContent]:
    """The content of a file by flax: keys are strings of less than 32 bytes, integers have a type byte."""
    if not data or not (0x81 <= data[0] <= 0x8F or data[0] in (0xDE, 0xDF)):
        return None

    def has(key: str) -> bool:
        return bytes([0xA0 + len(key)]) + key.encode() in data

    found: dict[str, int] = {}
    for kind, keys in (("step", STEP_KEYS), ("epoch", EPOCH_KEYS)):
        for key in keys:
            at = data.find(bytes([0xA0 + len(key)]) + key.encode())
            if at >= 0 and kind not in found:
                number = _packed(data[at + 1 + len(key) : at + 10 + len(key)])
                if number is not None:
                    found[kind] = number
    is_state = any(map(has, OPTIMIZER_KEYS))
    if is_state or has("params") or (found and any(map(has, _MODEL_KEYS))):
        return CheckpointContent(is_state=is_state, step=found.get("step"), epoch=found.get("epoch"))
    return None


def _packed(value: bytes) -> Optional[int]:
    if value and value[0] < 0x80:
        return value[0]
    size = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}.get(value[0]) if value else None
    return None if size is None else int.from_bytes(value[1 : 1 + size], "big")


def _folder(path: str) -> Optional[CheckpointContent]:
    """The content of a folder by torch.distributed.checkpoint or orbax: both write a file with all names last."""
    for name, words in ((".metadata", _DCP_OPTIMIZER), ("_METADATA", (b"opt_state", b"optim", b"'mu'", b'"mu"'))):
        for parent in (path, *(os.path.join(path, inner) for inner in ("default", "state"))):
            try:
                with open(os.path.join(parent, name), "rb") as file:
                    data = file.read(_MEMBER_BYTES)
            except OSError:
                continue
            return CheckpointContent(is_state=any(word in data for word in words))
    return None
