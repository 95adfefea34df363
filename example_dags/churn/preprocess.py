"""Make a table of customers: how long they have been here, how often they call, and whether they leave."""

import csv
import math
import os
import random
from pathlib import Path

# Vertex AI mounts every bucket below /gcs; a path stays as it is.
data = Path(os.environ["AIP_MODEL_DIR"].replace("gs://", "/gcs/", 1)).with_name("data")
data.mkdir(parents=True, exist_ok=True)

customers = random.Random(7)  # noqa: S311 - the same customers each time
rows = []
for _ in range(3000):
    months, calls = customers.uniform(0, 5), customers.uniform(0, 10)
    leaves = customers.random() < 1 / (1 + math.exp(2 * months - calls + 0.5))
    rows.append((f"{months:.3f}", f"{calls:.3f}", int(leaves)))
for name, part in (("train", rows[:2400]), ("test", rows[2400:])):
    with (data / f"{name}.csv").open("w", newline="") as file:
        csv.writer(file).writerows(part)
    print(f"{len(part)} customers in {data / name}.csv")
