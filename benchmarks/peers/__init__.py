"""What an epoch costs in SpeechBrain 1.1.2 and torchdistill 1.1.5, against Distillery's.

    python -m benchmarks.peers.compare --cache FOLDER [--source FSDD] [--clips 900] [--rounds 7]

makes an environment of the peers' own under FOLDER (5 GB; `requirements.txt` pins all of it),
writes the task, starts one process for each way to train, and lets them train an epoch in turn:
ours, the first peer, the second, …, ours again. Times are CPU seconds of the process and its
children, a ratio is the median of the rounds' ratios; one epoch of each comes first and is not
counted. Rows go to benchmarks/results/peers.json.

All train the same student from the same weights on the same batches, towards the same objective
(`material.py` has both), in fp32 on one thread, with AdamW in PyTorch's fused form and equal
clipping. Before the first step their losses on the first batch are compared: more than 1 % apart
ends the benchmark. Masks on features are off, for every peer would need its own.

What the peers get is what is fast in them:

- SpeechBrain (`with_speechbrain.py`): its Brain, and CachedHDF5DynamicItem for both features and
  teacher outputs, filled before anything is timed; our batches by length in place of its sampler.
- torchdistill (`with_torchdistill.py`): its DistillationBox with a forward hook. Version 1.1.5 has
  nothing that keeps a teacher's outputs (`forward_process` runs the teacher in each step), so the
  teacher is live; it is our own module, which steps faster than packed sequences. Features are
  computed in each epoch, or held in memory. Its metadata ask for PyTorch 2.12; all run on 2.11.
- no checkpoint, no validation, no progress bar; ours has all three, and makes its trainer anew.

The student is written in Conv1d layers, as their users would (`networks.py`); a second row of each
gives them our student's layers, which tells the layout from the pipeline. What was tried to reach
the goals is in docs/decisions/0044-peers.md.
"""
