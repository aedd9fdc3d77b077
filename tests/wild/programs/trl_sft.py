"""TRL SFTTrainer."""
# requires trl transformers accelerate datasets

import hashlib

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from trl import SFTConfig, SFTTrainer


class PrintSteps(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        print("step", state.global_step, flush=True)


torch.manual_seed(0)
words = ["<pad>", "<eos>", "<unk>", *(f"word{number}" for number in range(97))]
tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
config = LlamaConfig(
    vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, pad_token_id=0
)
rows = torch.randint(3, 100, (400, 12)).tolist()
data = Dataset.from_dict({"text": [" ".join(words[number] for number in row) for row in rows]})
trainer = SFTTrainer(
    model=LlamaForCausalLM(config),
    args=SFTConfig(
        "out",
        num_train_epochs=2,
        per_device_train_batch_size=8,
        save_steps=20,
        logging_steps=10,
        max_length=16,
        bf16=False,
        use_cpu=True,
        report_to="none",
    ),
    train_dataset=data,
    processing_class=tokenizer,
    callbacks=[PrintSteps()],
)
trainer.train()
weights = b"".join(value.numpy().tobytes() for value in trainer.model.state_dict().values())
print("final", hashlib.sha256(weights).hexdigest()[:12], trainer.state.global_step)
