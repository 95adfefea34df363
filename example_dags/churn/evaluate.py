"""Say how good the model is, in the file that goes with it; fail if it is not good enough to be published."""

import csv
import json
import os
import sys
from pathlib import Path

model = Path(os.environ["AIP_MODEL_DIR"].replace("gs://", "/gcs/", 1))
weights = json.loads((model / "model.json").read_text())
right = []
with (model.with_name("data") / "test.csv").open() as file:
    for months, calls, leaves in csv.reader(file):
        features = (1.0, float(months), float(calls))
        right.append((sum(w * x for w, x in zip(weights, features, strict=True)) > 0) == bool(int(leaves)))
accuracy = sum(right) / len(right)
print(f"accuracy {accuracy:.3f}")
(model / "metrics.json").write_text(json.dumps({"accuracy": accuracy, "customers": len(right)}))
if accuracy < float(os.environ["AT_LEAST"]):
    sys.exit("not good enough")
