"""Studies of what distillation is worth: settings beside, results in benchmarks/results."""
