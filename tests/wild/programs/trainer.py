"""Hugging Face Trainer."""
# requires transformers accelerate
# tried in CI: test_huggingface

import hashlib

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments


class PrintSteps(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        print("step", state.global_step, flush=True)


torch.manual_seed(0)
config = BertConfig(
    vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, num_labels=2
)
model = BertForSequenceClassification(config)
tokens = torch.randint(0, 100, (960, 16))
data = [{"input_ids": row, "labels": row.sum() % 2} for row in tokens]
arguments = TrainingArguments(
    "out", num_train_epochs=2, per_device_train_batch_size=16, save_steps=20, logging_steps=10
)
trainer = Trainer(model=model, args=arguments, train_dataset=data, callbacks=[PrintSteps()])
trainer.train()
weights = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
print("final", hashlib.sha256(weights).hexdigest()[:12], trainer.state.global_step)
