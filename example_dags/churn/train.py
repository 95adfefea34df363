"""Logistic regression by gradient descent. Each epoch leaves a checkpoint, and a later try goes on from the last one."""

import csv
import json
import math
import os
import sys
from pathlib import Path


def folder(variable: str) -> Path:
    path = Path(os.environ[variable].replace("gs://", "/gcs/", 1))
    path.mkdir(parents=True, exist_ok=True)
    return path


model, checkpoint = folder("AIP_MODEL_DIR"), folder("AIP_CHECKPOINT_DIR") / "last.json"
with (model.with_name("data") / "train.csv").open() as file:
    customers = [(1.0, float(months), float(calls), int(leaves)) for months, calls, leaves in csv.reader(file)]

epoch, weights = 0, [0.0, 0.0, 0.0]
resumed = checkpoint.exists()
if resumed:
    epoch, weights = json.loads(checkpoint.read_text())
    print(f"goes on after epoch {epoch}")
while epoch < 20:
    for *features, leaves in customers:
        error = leaves - 1 / (1 + math.exp(-sum(w * x for w, x in zip(weights, features, strict=True))))
        weights = [w + 0.01 * error * x for w, x in zip(weights, features, strict=True)]
    epoch += 1
    print(f"epoch {epoch} of 20: {weights}", flush=True)
    half = checkpoint.with_suffix(".half")  # whoever dies while writing leaves the checkpoint before
    half.write_text(json.dumps([epoch, weights]))
    half.replace(checkpoint)
    if not resumed and epoch == int(os.environ["INTERRUPT_AT"]):
        sys.exit(f"interrupted after epoch {epoch}, as you asked")
(model / "model.json").write_text(json.dumps(weights))
