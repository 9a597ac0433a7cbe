"""The teacher-output cache: what a teacher says about each recording, keyed by content.

    namespace.py   which teacher and payload a set of shards belongs to
    payload.py     log-probabilities to bytes and back
    shards.py      one immutable shard: a .bin file and its .arrow index
    store.py       all shards of one namespace: look-ups, coverage, adding

The key of an utterance is the hash of the samples that the teacher hears, so renamed, reordered
and re-split data still hit. A shard exists once its index does; the index is written last.
"""
