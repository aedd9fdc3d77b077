"""What is hidden as a secret, and what is not."""

from typing import Any

import pytest

from backprop.trainer.parameters.secrets import hidden, without_secrets


@pytest.mark.parametrize(
    "name",
    [
        *(
            "token",
            "hub_token",
            "hub-token",
            "hubToken",
            "HF_TOKEN",
            "hftoken",
            "use_auth_token",
            "model.token",
            "tokens",
        ),
        *("key", "api_key", "apiKey", "apikey", "OPENAI_API_KEY", "keys", "wandb.key", "key.file", "api_key_file"),
        *(
            "password",
            "db_password",
            "dbPassword",
            "passwd",
            "passphrase",
            "pwd",
            "pw",
            "db_pass",
            "secret",
            "client_secret",
            "secret_id",
        ),
        *("credentials", "aws.credentials.user", "access-key", "private_key"),
    ],
)
def test_a_text_of_such_a_name_is_hidden(name: str):
    """Whatever the spelling."""
    assert hidden(name, "abc") == "***"
    assert hidden(name, ["abc", "def"]) == "***"


@pytest.mark.parametrize(
    "name",
    [
        *(
            "monkey",
            "tokenizer",
            "tokenizer_name",
            "tokenization",
            "keyboard",
            "hotkey",
            "turkey",
            "compass",
        ),
        *("key_dim", "token_type", "keyframes", "pad_token", "eos_token", "image_key", "text_key", "lr", ""),
    ],
)
def test_other_names_that_contain_such_a_word_are_not(name: str):
    """Nor those of tokens of a vocabulary, and of keys of a data set."""
    assert hidden(name, "abc") == "abc"


@pytest.mark.parametrize("value", [5, 0.5, None, True, "", "512", "1e6", "true", "None", [1, 2], []])
@pytest.mark.parametrize("name", ["max_tokens", "token", "num_keys", "key"])
def test_numbers_and_switches_are_no_secrets(name: str, value: Any):
    """Of a parser that was told no type they are texts."""
    assert hidden(name, value) == value


@pytest.mark.parametrize(("value", "shown"), [(1234, "***"), ("1234", "***"), (None, None), (True, True), ("", "")])
def test_a_password_may_be_a_number(value: Any, shown: Any):
    """Only that it is missing may be told."""
    assert hidden("password", value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("postgresql://me:pa55@host/db", "postgresql://***@host/db"),
        ("http://localhost:8080/a@b", "http://localhost:8080/a@b"),
        ("hf_" + "a" * 34, "***"),
        ("use sk-proj-" + "a1" * 20 + " here", "use *** here"),
        ("ghp_" + "a1" * 18, "***"),
        ("github_pat_" + "a1" * 10, "***"),
        ("sk-learn", "sk-learn"),
        ("hf_internal", "hf_internal"),
        (["AKIA" + "A1B2" * 4], ["***"]),
        ("redis://me:p@55@host/0", "redis://***@host/0"),
        ("https://host/x?token=abc&lr=1", "https://host/x?token=***&lr=1"),
        ("Server=host;Password=abc;User=me", "Server=host;Password=***;User=me"),
        ("WANDB_API_KEY=abc", "WANDB_API_KEY=***"),
        ('{"db": {"password": "a b", "lr": 1}}', '{"db": {"password": "***", "lr": 1}}'),
        ("db={password:abc,user:me}", "db={password:***,user:me}"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("max_tokens=512,use_token=true,keys: 3", "max_tokens=512,use_token=true,keys: 3"),
        ("Find the key: it is here", "Find the key: it is here"),
    ],
)
def test_what_has_the_form_of_a_secret_is_hidden(value: Any, shown: Any):
    """Under any name, and the rest of the text stays."""
    assert hidden("storage", value) == shown


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("python t.py --api-key abc --lr 1", "python t.py --api-key *** --lr 1"),
        ("python t.py --api-key=abc api_key=abc lr=1", "python t.py --api-key=*** api_key=*** lr=1"),
        ("python t.py --max-tokens 5 --token", "python t.py --max-tokens 5 --token"),
        ("python t.py --token --lr 1", "python t.py --token --lr 1"),
        ("python t.py --monkey see postgresql://me:pw@host/db", "python t.py --monkey see postgresql://***@host/db"),
        ("env WANDB_API_KEY=abc python t.py", "env WANDB_API_KEY=*** python t.py"),
        ("docker run --env WANDB_API_KEY=abc image", "docker run --env WANDB_API_KEY=*** image"),
        ("python t.py --db=Server=host;Password=abc", "python t.py --db=Server=host;Password=***"),
    ],
)
def test_a_command_line_without_secrets(line: str, shown: str):
    """All other words are as they were."""
    assert without_secrets(line.split()) == shown.split()


@pytest.mark.parametrize(
    "text", ["://a:" * 20_000, "://a:" + "b" * 100_000, 'token:"' * 20_000, "--key" + " " * 100_000]
)
def test_a_long_text_takes_time_in_proportion(text: str):
    """Without bounds these would take minutes."""
    assert len(hidden("x", text)) <= len(text)
