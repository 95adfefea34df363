"""A classifier of handwritten digits, trained by all replicas of a CustomJob together; it knows nothing of where it runs."""
