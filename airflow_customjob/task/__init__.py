"""What an operator and its trigger have in common: who the task is, how it drives its job, what it shows meanwhile."""
