"""PEFT, LoRA with Trainer."""
# requires peft transformers accelerate

import hashlib

import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments


class PrintSteps(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        print("step", state.global_step, flush=True)


torch.manual_seed(0)
config = LlamaConfig(vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
lora = LoraConfig(
    task_type=TaskType.CAUSAL_LM, r=4, lora_alpha=8, lora_dropout=0.1, target_modules=["q_proj", "v_proj"]
)
model = get_peft_model(LlamaForCausalLM(config), lora)
tokens = torch.randint(0, 100, (640, 16))
data = [{"input_ids": row, "labels": row} for row in tokens]
trainer = Trainer(
    model=model,
    args=TrainingArguments("out", num_train_epochs=1, save_steps=20, logging_steps=10, learning_rate=1e-3),
    train_dataset=data,
    callbacks=[PrintSteps()],
)
trainer.train()
weights = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
print("final", hashlib.sha256(weights).hexdigest()[:12], trainer.state.global_step)
