"""What files hold, told from their bytes: those that a script continues from, and those that only look like it."""

import array
import gzip
import json
import pickle
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop.trainer.hooks.saved_files.contents import CheckpointContent, look, of_names
from tests.conftest import scaled

TENSOR = array.array("d", [0.5] * 8)
LARGE = array.array("d", [0.5] * 100_000)
MODEL = {"layer.weight": TENSOR, "layer.bias": TENSOR}
TORCH_OPTIMIZER = {"state": {0: {"exp_avg": TENSOR, "step": TENSOR}}, "param_groups": [{"lr": 0.1, "weight_decay": 0}]}


class Estimator:
    """As scikit-learn's that learn in parts."""

    def __init__(self) -> None:
        self.coef_ = TENSOR


class Adam:
    """An optimizer of somebody's own."""

    def __init__(self) -> None:
        self.moments = [TENSOR]


def state(**more: object) -> CheckpointContent:
    return CheckpointContent(is_state=True, **more)  # type: ignore[arg-type]


def weights(**more: object) -> CheckpointContent:
    return CheckpointContent(is_state=False, **more)  # type: ignore[arg-type]


PICKLED = [
    ({"model": MODEL, "optimizer": TORCH_OPTIMIZER, "epoch": 3}, state(epoch=3)),
    ({"m": MODEL, "o": TORCH_OPTIMIZER, "global_step": 70_000}, state(step=70_000)),
    ({"params": {"w": TENSOR}, "opt_state": (TENSOR, TENSOR), "step": 300}, state(step=300)),
    ({"model": MODEL, "opt": {"state": [{"mom": TENSOR}], "hypers": [{"lr": 0.1}]}}, state()),
    ({"net": MODEL, "optimizer": Adam(), "epoch": 0}, state(epoch=0)),
    ({"params": {"w": LARGE}, "opt_state": [LARGE], "epoch": 9}, state(epoch=9)),
    ({"w": TENSOR, "epoch": 7}, weights(epoch=7)),
    ({"w": [0.5, 0.25], "epoch": 7}, weights(epoch=7)),
    ({"clf": Estimator(), "epoch": 7}, weights(epoch=7)),
    (Estimator(), weights()),
    (MODEL, weights()),
    ({"model": MODEL, "optimizer": None, "epoch": -1}, weights()),  # stripped
    ({"model": MODEL, "optimizer": {"name": "adam", "lr": 0.1}, "epoch": 3}, weights(epoch=3)),  # its settings only
    (TORCH_OPTIMIZER, None),  # there is nothing that it could go on to train
    ({"optimizer": {"name": "adam", "lr": 0.1}, "model": {"type": "resnet"}, "epochs": 9}, None),
    ({"optimizer": "adam", "loss": TENSOR, "epoch": [1, 2, 3]}, None),
    ({"loss": TENSOR, "epoch": 3}, None),
    ({"x_train": TENSOR, "y_train": TENSOR}, None),
    ([TENSOR] * 3, None),
    ({"a": 1, "step": 3}, None),
    ("model optimizer epoch step", None),
]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(("content", "expected"), PICKLED)
def test_pickles(tmp_path: Path, content: object, expected: CheckpointContent | None, protocol: int):
    """In every protocol there is; also compressed, and in a zip file as torch.save writes it."""
    data = pickle.dumps(content, protocol=protocol)
    (tmp_path / "plain.pkl").write_bytes(data)
    (tmp_path / "zlib.joblib").write_bytes(zlib.compress(data))
    (tmp_path / "gzip.pkl.gz").write_bytes(gzip.compress(data))
    with zipfile.ZipFile(tmp_path / "state.pt", "w") as archive:
        archive.writestr("state/data.pkl", data)
        archive.writestr("state/data/0", b"\x8c\x05epochK\x63")
    found = {path.name: look(str(path)) for path in sorted(tmp_path.iterdir())}
    assert found == dict.fromkeys(found, expected)


def npy(data: bytes, kind: str, shape: tuple[int, ...]) -> bytes:
    header = f"{{'descr': '<{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


VECTOR = npy(TENSOR.tobytes(), "f8", (8,))
STEP = npy(struct.pack("<q", 1200), "i8", ())


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"w": VECTOR, "velocity_w": VECTOR, "step": STEP}, state(step=1200)),
        ({"params/kernel": VECTOR, "opt/mu": VECTOR}, state()),
        ({"w": VECTOR, "b": VECTOR, "epoch": STEP}, weights(epoch=1200)),
        ({"layer1.weight": VECTOR}, weights()),
        ({"x_train": VECTOR, "y_train": VECTOR}, None),
        ({"timesteps": VECTOR, "results": VECTOR}, None),
        ({"loss": VECTOR, "step": VECTOR}, None),
        ({"arr_0": VECTOR}, None),
    ],
)
def test_arrays_of_numpy(tmp_path: Path, arrays: dict[str, bytes], expected: CheckpointContent | None):
    path = tmp_path / "saved.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in arrays.items():
            archive.writestr(f"{name}.npy", data)
    assert look(str(path)) == expected


def test_archives_of_libraries(tmp_path: Path):
    """Of stable-baselines3 and of Keras."""
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", json.dumps({"num_timesteps": 4096, "policy": "x"}))
        archive.writestr("policy.pth", pickle.dumps(MODEL))
        archive.writestr("policy.optimizer.pth", pickle.dumps(TORCH_OPTIMIZER))
    assert look(str(path)) == state(step=4096)
    for content, expected in ((b"\x89HDF..optimizer..vars", state()), (b"\x89HDF..layers", weights())):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", '{"compile_config": {"optimizer": "adam"}}')
            archive.writestr("model.weights.h5", content)
        assert look(str(path)) == expected
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images/1.png", b"x")
    assert look(str(path)) is None


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("layers/dense/vars/0 optimizer/vars/0", state()),
        ("layers/dense/vars/0 vars", weights()),
        ("model_weights/dense/kernel optimizer_weights/adam/m", state()),
        ("images/0 labels", None),
    ],
)
def test_names_in_hdf5(names: str, expected: CheckpointContent | None):
    """Of Keras 3, and of earlier ones."""
    assert of_names(names.split(), lambda _: None) == expected


def test_msgpack_of_flax(tmp_path: Path):
    """{"step": 300, "params": {}, "opt_state": {}} and the like."""
    whole = b"\x83\xa4step\xcd\x01\x2c\xa6params\x80\xa9opt_state\x80"
    for name, data, expected in (
        ("state.msgpack", whole, state(step=300)),
        ("checkpoint_300", whole, state(step=300)),
        ("weights.msgpack", b"\x81\xa6params\x80", weights()),
        ("other.msgpack", b"\x81\xa4data\x80", None),
        ("other.txt", whole, None),
    ):
        (tmp_path / name).write_bytes(data)
        assert look(str(tmp_path / name)) == expected


def test_folders(tmp_path: Path):
    """Of torch.distributed.checkpoint and of orbax; what is in others is not looked for."""
    for name, data, expected in (
        ("a/.metadata", pickle.dumps({"model.w": 1, "optim.param_groups.0.lr": 1}), state()),
        ("b/.metadata", pickle.dumps({"model.w": 1}), weights()),
        ("c/default/_METADATA", b"{\"tree_metadata\": {\"('opt_state', 'mu')\": 1}}", state()),
        ("d/photo.png", b"x", None),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
        assert look(str(tmp_path / name[0])) == expected


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("kept", [0.01, 0.5, 0.9, 0.999])
def test_what_is_torn_holds_nothing(tmp_path: Path, kept: float, protocol: int):
    content = {"model": MODEL, "more": LARGE, "optimizer": TORCH_OPTIMIZER, "epoch": 3}
    data = pickle.dumps(content, protocol=protocol)
    path = tmp_path / "state.pkl"
    path.write_bytes(data)
    assert look(str(path)) is not None
    path.write_bytes(data[: int(len(data) * kept)])
    assert look(str(path)) is None
    path = tmp_path / "state.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("state/data.pkl", data)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    assert look(str(path)) is None


@given(
    st.binary(max_size=60), st.sampled_from(["a.pkl", "a.pt", "a.npz", "a.msgpack", "checkpoint"]), st.integers(0, 5)
)
@settings(max_examples=scaled(500), deadline=None)
def test_no_content_makes_it_raise(tmp_path_factory: pytest.TempPathFactory, data: bytes, name: str, kind: int):
    path = tmp_path_factory.mktemp("any") / name
    begin = (b"", b"\x80\x04", b"\x80\x04\x95", b"PK\x03\x04", b"\x78\x9c", b"\x83\xa4step")[kind]
    path.write_bytes(begin + data)
    found = look(str(path))
    assert found is None or isinstance(found, CheckpointContent)
