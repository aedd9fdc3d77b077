"""sentence-transformers, SentenceTransformerTrainer."""
# requires sentence-transformers transformers accelerate datasets

import hashlib
import os

import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
    models,
)
from transformers import BertConfig, BertModel, BertTokenizer, TrainerCallback


class PrintSteps(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        print("step", state.global_step, flush=True)


torch.manual_seed(0)
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{number}" for number in range(95))]
os.makedirs("tiny", exist_ok=True)
with open("tiny/vocab.txt", "w") as file:
    file.write("\n".join(words))
BertTokenizer("tiny/vocab.txt").save_pretrained("tiny")
config = BertConfig(vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
BertModel(config).save_pretrained("tiny")
transformer = models.Transformer("tiny", max_seq_length=16)
model = SentenceTransformer(modules=[transformer, models.Pooling(32)], device="cpu")
rows = torch.randint(5, 100, (640, 8)).tolist()
texts = [" ".join(words[number] for number in row) for row in rows]
data = Dataset.from_dict({"anchor": texts, "positive": texts[1:] + texts[:1]})
trainer = SentenceTransformerTrainer(
    model=model,
    args=SentenceTransformerTrainingArguments(
        "out",
        num_train_epochs=2,
        per_device_train_batch_size=16,
        save_steps=20,
        logging_steps=10,
        report_to="none",
    ),
    train_dataset=data,
    loss=losses.MultipleNegativesRankingLoss(model),
    callbacks=[PrintSteps()],
)
trainer.train()
weights = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
print("final", hashlib.sha256(weights).hexdigest()[:12], trainer.state.global_step)
