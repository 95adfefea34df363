"""How long a launch takes: ours against the same work made raw, and against what people use instead."""
