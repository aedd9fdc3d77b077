"""What the text of a LightGBM model says about the random state that a resumed training needs."""

import pytest

from backprop.trainer.hooks.boosting.lightgbm_replay import ModelParameters


def model(**values: object) -> ModelParameters:
    lines = "\n".join(f"[{name}: {value}]" for name, value in values.items())
    return ModelParameters(f"tree\n\nparameters:\n{lines}\nend of parameters\n")


@pytest.mark.parametrize(
    ("values", "is_exact"),
    [
        ({}, True),
        ({"boosting": "gbdt", "data_sample_strategy": "bagging"}, True),
        ({"boosting": "dart"}, False),
        ({"data_sample_strategy": "goss"}, False),
        ({"feature_fraction_bynode": 0.5}, False),
        ({"extra_trees": 1}, False),
        ({"use_quantized_grad": 1}, False),
        ({"forcedsplits_filename": "splits.json"}, False),
    ],
)
def test_whether_the_random_state_can_be_reproduced(values: dict[str, object], is_exact: bool):
    assert model(**values).is_exact is is_exact


@pytest.mark.parametrize(
    ("values", "freq"),
    [
        ({"bagging_freq": 5}, 0),  # of all rows: nothing is drawn
        ({"bagging_freq": 5, "bagging_fraction": 0.8}, 5),
        ({"bagging_freq": 5, "neg_bagging_fraction": 0.8}, 5),
        ({"bagging_fraction": 0.8}, 0),
    ],
)
def test_how_often_rows_are_drawn(values: dict[str, object], freq: int):
    assert model(**values).bagging_freq == freq


def test_a_value_that_is_no_number_is_the_default():
    assert model(feature_fraction="auto").number("feature_fraction", 1.0) == 1.0
    assert ModelParameters("").number("bagging_freq", 7) == 7
