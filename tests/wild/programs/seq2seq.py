"""Hugging Face Seq2SeqTrainer."""
# requires transformers accelerate

import hashlib

import torch
from transformers import (
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    TrainerCallback,
)


class PrintSteps(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        print("step", state.global_step, flush=True)


torch.manual_seed(0)
config = T5Config(
    vocab_size=100, d_model=32, d_ff=64, d_kv=16, num_layers=2, num_heads=2, decoder_start_token_id=0, pad_token_id=0
)
model = T5ForConditionalGeneration(config)
tokens = torch.randint(3, 100, (640, 12))
data = [{"input_ids": row, "labels": row.flip(0)} for row in tokens]
trainer = Seq2SeqTrainer(
    model=model,
    args=Seq2SeqTrainingArguments(
        "out",
        num_train_epochs=2,
        per_device_train_batch_size=16,
        eval_strategy="steps",
        eval_steps=20,
        save_steps=20,
        logging_steps=10,
        predict_with_generate=True,
        generation_max_length=12,
    ),
    train_dataset=data,
    eval_dataset=data[:32],
    callbacks=[PrintSteps()],
)
trainer.train()
weights = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
print("final", hashlib.sha256(weights).hexdigest()[:12], trainer.state.global_step)
