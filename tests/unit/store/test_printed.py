"""Lines as trainings print them, and lines that only look so. What is beside each: the program that prints it.

`printed_lines.json` and `printed_more_lines.json` have what people collected who had not seen the parser: programs and where
their lines are from, the main metrics as the collectors read them, and what is read now. Their `none` are of programs that train,
too; `values` are rates of learning with an epoch, which were collected as no metric.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop.store.output.printed import MAX_LINE, Reader
from backprop.store.output.printed_position import Printed
from backprop.store.output.protocol import json_safe

FIRST, SECOND = (
    json.loads(Path(__file__).with_name(name).read_text(encoding="utf-8"))
    for name in ("printed_lines.json", "printed_more_lines.json")
)
COLLECTED = {key: FIRST[key] + SECOND[key] for key in FIRST}


def said(*lines: str, patterns: Sequence[str] = ()) -> list[Printed]:
    """What a script says that prints these lines."""
    return [each for _, each in Reader(patterns).read("".join(f"{line}\n" for line in lines).encode())]


# the line; what it says besides its metrics; its metrics
UNDERSTOOD: list[tuple[str, dict[str, Any], dict[str, float]]] = [
    # nanoGPT train.py
    ("iter 100: loss 2.3100, time 12.10ms, mfu 5.40%", {"step": 100}, {"loss": 2.31, "mfu": 5.4}),
    (
        "step 0: train loss 4.2874, val loss 4.2823",
        {"step": 0},
        {"train_loss": 4.2874, "val_loss": 4.2823},
    ),
    # accelerate's sp-alst.py; dicts of numbers of JAX and NumPy 2
    ("iter 3: loss=tensor(2.3111, grad_fn=<NllLossBackward0>)", {"step": 3}, {"loss": 2.3111}),
    ("epoch 3 loss: tensor(2., device='cuda:0')", {"epoch": 3.0}, {"loss": 2.0}),
    ("{'loss': Array(0.31, dtype=float32), 'step': 7}", {"step": 7}, {"loss": 0.31}),
    ("{'eval_loss': np.float64(0.3125), 'acc': np.float32(-inf)}", {}, {"eval_loss": 0.3125, "acc": -math.inf}),
    # build-nanogpt train_gpt2.py
    (
        "step     2 | loss: 9.388304 | lr 2.5e-06 | norm: 12.1 | dt: 390.12ms | tok/sec: 1343912.1",
        {"step": 2},
        {"loss": 9.388304, "lr": 2.5e-06, "norm": 12.1, "tok/sec": 1343912.1},
    ),
    # modded-nanogpt
    (
        "step:1000/5100 val_loss:3.2828 train_time:60000ms step_avg:60.00ms",
        {"step": 1000, "total_steps": 5100},
        {"val_loss": 3.2828},
    ),
    # pytorch/examples mnist
    (
        "Train Epoch: 3 [640/60000 (1%)]\tLoss: 0.310123",
        {"epoch": 3, "epoch_step": 640, "epoch_steps": 60000},
        {"loss": 0.310123},
    ),
    (
        "Test set: Average loss: 0.0265, Accuracy: 9912/10000 (99%)",
        {},
        {"test_average_loss": 0.0265, "test_accuracy": 0.9912},
    ),
    # pytorch/examples word_language_model
    (
        "| epoch   1 |   200/ 2983 batches | lr 20.00 | ms/batch  5.10 | loss  7.63 | ppl  2055.98",
        {"epoch": 1, "epoch_step": 200, "epoch_steps": 2983},
        {"lr": 20.0, "loss": 7.63, "ppl": 2055.98},
    ),
    (
        "| end of epoch   1 | time: 23.20s | valid loss  5.50 | valid ppl   245.10",
        {"epoch": 1},
        {"valid_loss": 5.5, "valid_ppl": 245.1},
    ),
    # pytorch/examples imagenet
    (
        "Epoch: [0][  10/5005]\tTime  0.123 ( 0.456)\tData  0.100 ( 0.200)\tLoss 6.9012e+00 (6.9512e+00)"
        "\tAcc@1   0.00 (  0.10)\tAcc@5   1.00 (  0.50)",
        {"epoch": 0, "epoch_step": 10, "epoch_steps": 5005},
        {"loss": 6.9012, "acc@1": 0.0, "acc@5": 1.0},
    ),
    # pytorch/examples dcgan
    (
        "[0/5][0/1583] Loss_D: 1.93 Loss_G: 5.90 D(x): 0.5 D(G(z)): 0.6 / 0.02",
        {"epoch": 0, "epochs": 5, "epoch_step": 0, "epoch_steps": 1583},
        {"loss_d": 1.93, "loss_g": 5.9},
    ),
    # pytorch/examples reinforcement_learning
    (
        "Episode 10\tLast reward: 21.00\tAverage reward: 12.31",
        {"step": 10},
        {"last_reward": 21.0, "average_reward": 12.31},
    ),
    # PyTorch's tutorials: cifar10, quickstart
    ("[1,  2000] loss: 2.196", {}, {"loss": 2.196}),
    ("loss: 2.302585  [   64/60000]", {}, {"loss": 2.302585}),
    # timm train.py
    (
        "Train: 0 [  50/1251 (  4%)]  Loss: 6.93 (6.94)  Time: 0.412s, 600.50/s  (0.512s, 500.00/s)  LR: 1.000e-05",
        {"epoch": 0, "epoch_step": 50, "epoch_steps": 1251},
        {"loss": 6.93, "lr": 1e-05},
    ),
    # Keras
    (
        "20/100 ━━━━━━━━━━━━━━━━━━━━ 1s 5ms/step - accuracy: 0.9100 - loss: 0.3100 - val_loss: 0.4000",
        {"epoch_step": 20, "epoch_steps": 100},
        {"accuracy": 0.91, "loss": 0.31, "val_loss": 0.4},
    ),
    ("Epoch 3/10", {"epoch": 3, "epochs": 10}, {}),
    # quality, alone on its line; measured on several sets
    ("mAP@50: 0.8731, mAP@50-95: 0.6127", {}, {"map@50": 0.8731, "map@50-95": 0.6127}),
    ("AP: 0.4", {}, {"ap": 0.4}),
    ("CIDEr: 1.116, SPICE: 0.211", {}, {"cider": 1.116, "spice": 0.211}),
    ("[2024-05-01 10:00:00] R2 Score = 0.57", {}, {"r2_score": 0.57}),
    ("r2 0.5750679", {}, {"r2": 0.5750679}),
    ("Adjusted R2 (train):  0.901103", {}, {"train_adjusted_r2": 0.901103}),
    ("RMSE (test): 12.5", {}, {"test_rmse": 12.5}),
    ("Fold 1/5 epoch 3 loss 0.4", {"epoch": 3}, {"loss": 0.4}),
    ("Epoch 3, Round 4/10, loss 0.5", {"epoch": 3, "epoch_step": 4, "epoch_steps": 10}, {"loss": 0.5}),
    ("{'Round': 2, 'train': {'loss': 0.5}}", {"step": 2}, {"train/loss": 0.5}),
    ("{'Epoch': 3, 'loss': 0.5, 'n_parameters': 81956008}", {"epoch": 3}, {"loss": 0.5}),
    # XGBoost, LightGBM, CatBoost
    ("[0]\tvalidation-logloss:0.61", {"step": 0}, {"validation-logloss": 0.61}),
    (
        "[10]\ttraining's binary_logloss: 0.61\tvalid_1's binary_logloss: 0.62",
        {"step": 10},
        {"training_binary_logloss": 0.61, "valid_1_binary_logloss": 0.62},
    ),
    (
        "0:\tlearn: 0.6853\ttest: 0.68\tbest: 0.68 (0)\ttotal: 50ms\tremaining: 5s",
        {"step": 0},
        {"learn": 0.6853, "test": 0.68, "best": 0.68},
    ),
    # transformers 4 and 5
    (
        "{'loss': 0.31, 'grad_norm': 1.2, 'learning_rate': 4e-05, 'epoch': 0.5}",
        {"epoch": 0.5},
        {"loss": 0.31, "grad_norm": 1.2, "learning_rate": 4e-05},
    ),
    (
        "{'loss': '0.31', 'grad_norm': '1.2', 'learning_rate': '4e-05', 'epoch': '0.5'}",
        {"epoch": 0.5},
        {"loss": 0.31, "grad_norm": 1.2, "learning_rate": 4e-05},
    ),
    ("{'loss': inf, 'epoch': 1.0}", {"epoch": 1}, {"loss": math.inf}),
    # JSON behind a logger's prefix, nested, without a step
    ('INFO:root:{"step": 3, "loss": 0.5}', {"step": 3}, {"loss": 0.5}),
    ('{"epoch": 1, "train": {"loss": 1.0, "acc": "0.5"}}', {"epoch": 1}, {"train/loss": 1.0, "train/acc": 0.5}),
    # tqdm, with set_postfix; Lightning's bar
    (
        " 12%|█▏        | 120/1000 [00:10<01:20, 11.00it/s, loss=0.3]",
        {"step": 120, "total_steps": 1000},
        {"loss": 0.3},
    ),
    (
        "Epoch 1:  12%|█▏        | 120/1000 [00:10<01:20, 11.00it/s, loss=0.3, v_num=0, train_loss_step=0.311]",
        {"epoch": 1, "epoch_step": 120, "epoch_steps": 1000},
        {"loss": 0.3, "train_loss_step": 0.311},
    ),
    (" 50%|█████     | 1/2 [00:00]\r100%|██████████| 2/2 [00:01]\rloss: 0.25", {}, {"loss": 0.25}),
    # fairseq
    (
        "2021-01-01 12:00:00 | INFO | train_inner | epoch 001:    100 / 1000 loss=5.1, ppl=34.2, num_updates=100, lr=1e-05",
        {"epoch": 1, "step": 100},
        {"loss": 5.1, "ppl": 34.2, "lr": 1e-05},
    ),
    # Megatron-LM
    (
        " iteration        1/      10 | consumed samples:            8 | elapsed time per iteration (ms): 123.4 |"
        " learning rate: 1.0E-04 | lm loss: 1.1E+01 | grad norm: 1.2 |",
        {"step": 1, "total_steps": 10},
        {"learning_rate": 1e-4, "lm_loss": 11.0, "grad_norm": 1.2},
    ),
    # detectron2, mmengine
    (
        "[11/29 12:00:00 d2.utils.events]:  eta: 0:05:30  iter: 19  total_loss: 1.9  loss_cls: 0.8  lr: 0.0001",
        {"step": 19},
        {"total_loss": 1.9, "loss_cls": 0.8, "lr": 1e-4},
    ),
    (
        "2022/10/01 - mmengine - INFO - Epoch(train)  [1][ 50/100]  lr: 1.0000e-03  eta: 0:10:12  loss: 1.9  acc: 0.5",
        {"epoch": 1, "epoch_step": 50, "epoch_steps": 100},
        {"lr": 1e-3, "loss": 1.9, "acc": 0.5},
    ),
    # absl, structlog and loguru before a script's own words
    ("I1129 12:00:00.123456 1234 train.py:45] step 100, loss 0.3", {"step": 100}, {"loss": 0.3}),
    ("2026-11-29 12:00:00 [info     ] train    loss=0.3 step=100", {"step": 100}, {"loss": 0.3}),
    ("2026-11-29 12:00:00.123 | INFO     | __main__:train:10 - Epoch 1 loss 0.3", {"epoch": 1}, {"loss": 0.3}),
    # flax's examples
    ("train epoch: 1, loss: 0.2300, accuracy: 92.10", {"epoch": 1}, {"loss": 0.23, "accuracy": 92.1}),
    ("eval epoch: 1, loss: 0.1300, accuracy: 95.10", {"epoch": 1}, {"eval_loss": 0.13, "eval_accuracy": 95.1}),
    # the standard library's logging; TensorFlow's Estimator
    ("INFO:root:loss: 0.3", {}, {"loss": 0.3}),
    (
        "INFO:tensorflow:loss = 4.264659, step = 100 (124.394 sec)",
        {"step": 100},
        {"loss": 4.264659},
    ),
    # LightGBM's command line: each set of data has a curve of its own
    ("[LightGBM] [Info] Iteration:46, valid_1 auc : 0.819998", {"step": 46}, {"valid_1_auc": 0.819998}),
    # OpenNMT
    ("Train Loss/PPL: 9.094 / 8899.793", {}, {"train_loss/ppl": 9.094}),
    # keras-rl
    (
        " 39497/50000: episode: 570, duration: 1.759s, episode steps: 337, episode reward: 12.500",
        {"step": 39497, "total_steps": 50000},
        {"episode_reward": 12.5},
    ),
    # kohya's sd-scripts, torchtune
    (
        "steps:   2%|█▍        | 82/3280 [01:40<1:05:00,  1.22s/it, avr_loss=0.11]",
        {"step": 82, "total_steps": 3280},
        {"avr_loss": 0.11},
    ),
    (
        "1|25|Loss: 1.2621808052062988:  26%|██▌       | 26/101 [06:45<17:27, 13.96s/it]",
        {},
        {"loss": 1.2621808052062988},
    ),
    # PyTorch Geometric's examples
    ("Train: 0.5455, Val: 0.5342, Test: 0.4670", {}, {"train": 0.5455, "val": 0.5342, "test": 0.467}),
    # nnU-Net, litgpt
    ("Average global foreground Dice: [0.8352327184366186]", {}, {"dice": 0.8352327184366186}),
    ("Ep 1 | iter 4 | loss train (curr): 1.585", {"epoch": 1, "step": 4}, {"loss_train": 1.585}),
    # what people write by themselves
    (
        "Epoch 12 | Train Loss: 0.3211 | Train Acc: 91.23% | Val Acc: 88.1%",
        {"epoch": 12},
        {"train_loss": 0.3211, "train_acc": 91.23, "val_acc": 88.1},
    ),
    (
        "Step 1,500 / 10,000 | loss 1.234e-01 | grad_norm 0.51",
        {"step": 1500, "total_steps": 10000},
        {"loss": 0.1234, "grad_norm": 0.51},
    ),
    ("\x1b[32mepisode_reward=12.31 +/- 0.50\x1b[0m", {}, {"episode_reward": 12.31}),
    ("reward: 1,234,567 loss=1,234.5,acc=1,lr=2e-4", {}, {"reward": 1234567.0, "loss": 1234.5, "acc": 1, "lr": 2e-4}),
]

NOT_METRICS = [
    "lost 3 files: 12",
    "Namespace(lr=0.001, epoch=10, batch_size=32, loss='ce')",
    "lr=0.001 batch_size=32 epochs=10",
    "learning_rate: 0.001",
    "Found 48 images: 12 corrupt",
    "HTTP error: 404",
    "return code: 1",
    "exit status 1",
    "Downloading model-0.31.bin: 100%",
    "Saved model-epoch=03-val_loss=0.31.ckpt",
    "Saving checkpoint to /x/epoch=03-loss=0.31/",
    "Collecting torch==2.13.0",
    "Successfully installed accuracy-0.31 loss-1.0",
    "Total params: 1,234,567",
    # timm's results, an object on several lines: this is the loss of the validation, which another line says
    '            "loss": 0.08022010326385498,',
    "            'loss': 0.08",
    # commas of decimals: 2.31 is neither 2 nor 231, and nobody knows what 2,310 is
    "Epoche 1: loss: 2,31 acc: 0,9100",
    "loss=0,310",
    "Step 10 | loss 2,310",
    "The loss: 2,31.",
    "number of parameters: 10.65M",
    "Python 3.11.7, PyTorch 2.13.0",
    "GPU memory: 12.3 GB",
    "Using seed: 42",
    "Training took: 12.3 s",
    "Elapsed time: 0:01:23",
    "Loading data... done in 1.23s",
    "2026-11-29 12:00:00,123 INFO Starting training",
    "val_loss did not improve from 0.31",
    "EarlyStopping counter: 3 out of 5",
    "reducing learning rate of group 0 to 1.0000e-04.",
    "Restored 12 tensors from step-100.pt",
    "world_size: 8, rank: 0",
    "listening on 127.0.0.1:8080",
    '  File "train.py", line 12, in <module>',
    "RuntimeError: size mismatch, got 3: expected 4",
    "CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 8.00 GiB total capacity)",
    '127.0.0.1 - - [29/Nov/2026 12:00:00] "GET /loss HTTP/1.1" 200 12',
    "Map: 100%|██████████| 1000/1000 [00:01<00:00, 900.00 examples/s]",
    "Downloading: 12%|█▏   | 120/1000 [00:10<01:20, 11.0MB/s]",
    "Generating train split: 1000 examples [00:00, 1234.00 examples/s]",
    "num_workers=4, pin_memory=True",
    "Step 1: install dependencies",
    "Step 2/3: building wheel (size: 12 MB)",
    "precision: 16",
    "batch size 32",
    "layers.0.weight 128",
    "the loss of 3 points is acceptable",
    "we reduce loss 5 times",
    "Temperature: 21.5",
    "max_steps: 1000",
    "warmup_steps=100",
    "total loss weights: 3",
    # settings are called after metrics: DeepSpeed, detectron2, mmdetection, RL configurations, YOLOv5
    '"loss_scale_window": 1000,',
    "    FOCAL_LOSS_ALPHA: 0.25",
    "            type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),",
    "    value_loss_coef=1.0,",
    "          entropy_coeff: 0.0",
    "hyperparameters: lr0=0.01, momentum=0.937, box=0.05, cls=0.5, cls_pw=1.0, obj=1.0, iou_t=0.2",
    "{'train': Dataset({'features': ['text'], 'num_rows': 1000})}",
    '{"learning_rate": 0.1, "epochs": 3}',
    "",
    # what looks like a number before its name, like a share of an epoch, like a step in its words
    "Results: 3 wins, 2 loss, 5 draws",
    "We have 20 images, 3 loss, 4 more",
    "Pass 12, Fail 3, Error 1",
    "steps: 1000, lr: 0.1, clip: 0.5",
    "iterations: 1000, error_thresh: 0.005, temperature: 0.7",
    "Epoch 3 ended on 03/25 10:12:13, took 12.5s",
    "the accuracy after epoch 3 is 5 points better",
    "Objective: 28.35",
    "score: 12.5",
    "cost: 0.12",
    "Trial parameters: {'lr': 0.002, 'loss': 'mse'}",
    "tokens_per_second: 1234.5",
    "samples/sec: 100.5",
    "usage: train.py [--loss 0.5]",
    "--loss-weight 0.5 --error 0.1",
    "validation error: 3 problems",
    "error [0.5]",
    "[1234] worker started, error = 3",
    "训练 3 轮 开始",
    "Loading map: 0.53%",
    "heat map: 0.75",
    "r2 2.3.1",
    "R2: 3",
    "map: 120",
    "spice 1.20",
    "the AP: 0.4",
    "{'optimizer': {'lr': 0.1}, 'loss': {'ce': 1.0, 'dice': 1.0}}",
    "{'model': {'train_loss_weight': 1.0}}",
    "{'epoch': 200, 'loss': {'type': 'ce', 'loss_weight': 1.0}}",
    "{'train': {'batch_size': 32, 'lr': 0.1}, 'names': [unknown]}",
    "lr: 0.001, momentum: 0.9, weight_decay: 0.0005, epoch: 30",
    "epoch=200, lr=0.1, pretrained=None, ratio=0.5",
    "[1/2][3/4] Building 0.5",
    "3/25 [===>...] - ETA: 3s",
]

# headers and headings of nothing, each with what stands below them
NOT_METRICS_BELOW = [
    ["the loss at each step of the training", "1 2 3 4 5 6 7 8"],
    ["name       loss      weight", "step       0.5       0.1"],
    ["              precision    recall  f1-score   support", "           0       0.91      0.93      0.92       100"],
    ["epoch  lr  momentum", "0  0.1  0.9"],
    ["| Model | mAP |", "|---|---|", "| a | 0.4 |"],
    ["Dataset  Accuracy", "CIFAR    0.4"],
    ["epoch  loss_weight  lr", "0      0.5      0.1"],
    ["   epoch      loss  accuracy", "0      1  0.500000      0.91", "1      2  0.400000      0.92"],  # of pandas
    ["epoch     train_loss  valid_loss", "some text of 12 words"],
    ["epoch,loss,accuracy", "1,5"],
    ["| Name | Loss | Train |", "|---|---|---|", "| a | b | c |"],
    ["Step 1: install dependencies", "score: 0.5"],
    ["Training until step 1000", "score: 0.5"],
    ["max steps: 100", "score: 0.5"],
    ["Epoch 3", "learning rate: 0.001", "temperature: 0.7", "threshold: 0.5", "return code: 1"],
    [
        "Class     Images  Instances      Box(P          R      mAP50  mAP50-95)",
        "person  722  1444  0.989  0.99  0.993  0.681",
    ],
    ["Preparing", "100%|██████████| 3218/3218 [01:05<00:00, 49.23it/s]"],
]


@pytest.mark.parametrize(("line", "progress", "values"), UNDERSTOOD, ids=[each[0] for each in UNDERSTOOD])
def test_what_trainings_print(line: str, progress: dict[str, Any], values: dict[str, float]):
    (printed,) = said(line)
    assert msgspec.structs.replace(printed, unit=None) == Printed(values, **progress)


@pytest.mark.parametrize(
    ("line", "unit"),
    [
        ("step 10 loss: 0.5", None),  # of an optimizer, or of anything else
        ("global_step=10 loss: 0.5", None),
        ("epoch 3/10 loss: 0.5", None),  # says nothing of steps
        ("epoch 3/10 iter 7/50 loss: 0.5", None),
        ("iter 10: loss 0.5", "iteration"),
        ("Episode 10 reward: 21.0", "episode"),
        ("total_timesteps 2048 reward: 21.0", "environment step"),
        ("num_updates=100 loss=5.1", "update"),
        ("[0]\tvalidation-logloss:0.61", "round"),
    ],
)
def test_what_a_step_is(line: str, unit: str | None):
    """Where the line says so."""
    (printed,) = said(line)
    assert printed.unit == unit


@pytest.mark.parametrize("line", NOT_METRICS)
def test_what_only_looks_so(line: str):
    assert said(line) == []


@pytest.mark.parametrize("lines", NOT_METRICS_BELOW, ids=[each[0] for each in NOT_METRICS_BELOW])
def test_what_stands_below_what_only_looks_so(lines: list[str]):
    assert said(*lines) == []


@pytest.mark.parametrize("program", COLLECTED["metrics"], ids=[each["program"] for each in COLLECTED["metrics"]])
def test_what_collected_programs_print(program: Mapping[str, Any]):
    """All that is read of their lines: names, values, positions."""
    data = "".join(f"{line}\n" for line in program["lines"]).encode()
    read = []
    for end, printed in Reader().read(data):
        fields = {name: value for name, value in msgspec.structs.asdict(printed).items() if value is not None}
        read.append({"line": data.count(b"\n", 0, end - 1) + 1, **json_safe(fields)})
    assert read == program["read"]


def test_how_many_of_the_main_metrics_are_read():
    """As docs/contributing/testing.md says."""
    assert [(_complete(each["metrics"]), len(each["metrics"])) for each in (FIRST, SECOND)] == [(107, 114), (58, 60)]


def _complete(programs: Sequence[Mapping[str, Any]]) -> int:
    return sum(set(_main(program)) <= set(_read(program)) for program in programs)


def _main(program: Mapping[str, Any]) -> Iterator[float]:
    for value in program["main"].values():
        yield from map(float, value if isinstance(value, list) else [value])


def _read(program: Mapping[str, Any]) -> Iterator[float]:
    for printed in program["read"]:
        yield from map(float, printed["values"].values())


@pytest.mark.parametrize("program", COLLECTED["none"], ids=[each["program"] for each in COLLECTED["none"]])
def test_what_collected_programs_print_beside_metrics(program: Mapping[str, Any]):
    read = [printed.values for printed in said(*program["lines"]) if printed.values]
    assert read == program.get("values", [])


def test_tables_of_stable_baselines3():
    """A box, in sections; its steps are those of the environment."""
    table = """
-----------------------------------------
| rollout/                |             |
|    ep_len_mean          | 22.4        |
|    ep_rew_mean          | 22.5        |
| time/                   |             |
|    fps                  | 1211        |
|    total_timesteps      | 2048        |
| train/                  |             |
|    loss                 | 6.9         |
-----------------------------------------
"""
    values = {"rollout/ep_len_mean": 22.4, "rollout/ep_rew_mean": 22.5, "train/loss": 6.9}
    assert said(*table.splitlines()) == [Printed(values, step=2048, unit="environment step")]


def test_tables_of_scikit_learn():
    """Columns of two words, a row an iteration."""
    printed = said("      Iter       Train Loss   Remaining Time ", "         1           1.2613            1.21s")
    assert printed == [Printed({"train_loss": 1.2613}, step=1)]


def test_a_report_of_classes_says_its_averages():
    """Also that of an older scikit-learn; what is of one class is no metric of the training."""
    printed = said(
        "              precision    recall  f1-score   support",
        "           0       0.91      0.93      0.92       100",
        "    accuracy                           0.93       100",
        "weighted avg       0.91      0.94      0.95       100",
        " avg / total     0.7761    0.8113    0.7929      1351",
    )
    assert [each.values for each in printed] == [
        {"accuracy": 0.93},
        {"weighted_avg_precision": 0.91, "weighted_avg_recall": 0.94, "weighted_avg_f1-score": 0.95},
        {"avg_total_precision": 0.7761, "avg_total_recall": 0.8113, "avg_total_f1-score": 0.7929},
    ]


def test_a_table_of_data_sets():
    printed = said(
        "| Dataset | Rank-1 | mAP |", "|:---|:---|:---|", "| Market | 90.5 | 80.1 |", "| Duke | 58.5 | 40.1 |"
    )
    assert [each.values for each in printed] == [
        {"market_rank-1": 90.5, "market_map": 80.1},
        {"duke_rank-1": 58.5, "duke_map": 40.1},
    ]


def test_tables_of_fastai():
    printed = said(
        "epoch     train_loss  valid_loss  accuracy  time    ",
        "0         0.490000    0.310000    0.890000  00:05   ",
        "Better model found at epoch 0 with valid_loss value: 0.31.",
        "1         0.390000    0.210000    0.900000  00:05   ",
    )
    assert [(each.epoch, each.values["valid_loss"]) for each in printed] == [(0, 0.31), (0, 0.31), (1, 0.21)]


def test_tables_of_ultralytics():
    printed = said(
        "      Epoch    GPU_mem   box_loss   cls_loss   dfl_loss  Instances       Size",
        "        1/3      2.29G      1.169      2.912      1.433         12        640: 100%|██████████| 8/8",
    )
    values = {"box_loss": 1.169, "cls_loss": 2.912, "dfl_loss": 1.433}
    assert printed == [Printed(values, epoch=1, epochs=3)]


def test_a_heading_places_the_lines_below_it():
    """Until the next one, or a line that has a step of its own."""
    printed = said(
        "--- Step 10 ---", "loss: 0.5", "score: 0.25", "step 15 loss: 0.4", "acc: 0.5", "--- Step 20 ---", "loss: 0.3"
    )
    assert [each.step for each in printed] == [10, 10, 15, None, 20]


def test_a_heading_of_many_points_is_no_step():
    """A round in which the loss is printed again and again: those points are not at one step."""
    printed = said("Round 1", "loss: 0.5", "loss: 0.4", "loss: 0.3", "Round 2", "loss: 0.2")
    assert [each.step for each in printed] == [1, None, None, None]


def test_a_heading_far_above_says_nothing():
    printed = said("Step 10", *["a line of text"] * 1000, "loss: 0.5", "score: 0.5")
    assert printed == [Printed({"loss": 0.5})]


def test_a_table_is_over_when_no_row_has_come_for_long():
    header, row = "epoch  loss", "1      0.5"
    assert said(header, *["a line of text"] * 50, row) == [Printed({"loss": 0.5}, epoch=1)]
    assert said(header, *["a line of text"] * 200, row) == []


def test_patterns_of_the_users_own():
    """A name and a value, or a group for each metric; with the step where the line has one."""
    lines = ["@@ quality -> 7", "tick 12 energy 3.5eV"]
    patterns = [r"@@ (?P<name>\w+) -> (?P<value>\d+)", r"tick (?P<step>\d+) energy (?P<energy>[\d.]+)eV"]
    assert said(*lines) == []
    assert said(*lines, patterns=patterns) == [Printed({"quality": 7.0}), Printed({"energy": 3.5}, step=12)]


def test_offsets_are_those_of_the_lines_ends():
    data = b"a text\nloss: 0.5\n\nmore\nstep 3 loss: 0.25\n"
    assert [data[:end].splitlines()[-1] for end, _ in Reader().read(data)] == [b"loss: 0.5", b"step 3 loss: 0.25"]


def test_a_long_line_of_a_progress_bar_says_what_is_seen_of_it():
    bar = "".join(f"\r {step}%|███    | {step}/100 [00:10<01:20, 11.00it/s, loss=0.5]" for step in range(101))
    assert said(bar) == [Printed({"loss": 0.5}, step=100, total_steps=100)]


def test_a_long_line_says_nothing():
    assert said("loss: 0.5" + " " * MAX_LINE) == []


@given(st.lists(st.one_of(st.text(), st.sampled_from([line for line, *_ in UNDERSTOOD])), max_size=8), st.data())
def test_nothing_makes_it_fail(lines: list[str], data: st.DataObject):
    """Whatever is printed, and wherever a line that would be understood is cut or mended."""
    cut = [line[: data.draw(st.integers(0, len(line)))] for line in lines]
    for _, printed in Reader().read("\n".join(lines + cut).encode(errors="surrogatepass")):
        assert all(isinstance(value, float) for value in printed.values.values())
        assert printed.step is None or isinstance(printed.step, int)


@pytest.mark.parametrize(
    "line", [f"epoch{' ' * 1900}x 1", f"train step{' ' * 1900}x 1", f"loss of step:{' ' * 1900}[x 1"]
)
def test_a_line_full_of_spaces_takes_time_in_proportion(line: str):
    """The supervisor reads it: without bounds it would be blocked for minutes."""
    assert said(*[line] * 20) == []
