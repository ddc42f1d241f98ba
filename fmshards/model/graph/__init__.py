"""A model's forward as a graph, held against the model itself.

trace.py        the graph, true in train and in eval mode
state_proxy.py  a parameter while a model is traced: of known shape
leaf.py         which modules a trace keeps whole
compare.py      two traces of one model held against each other
modes.py        a model's mode and the generators' state for a moment, and back
run.py          running a graph node by node, and what is seen on the way
attention.py    attention in a frozen prefix by the kernel that the model itself would take
example.py      example images: channels, size, dtype, and a synthetic one
analyse.py      a model traced, run on an example in both modes, and held against itself
culprit.py      which module makes a graph compute something else than its model
purity.py       whether a feature is a function of its image, and of nothing else
liveness.py     where one tensor alone is alive: the points to cut
sizes.py        sizes that live across a cut, found again from the feature
sharing.py      what both sides of a cut use
kinds.py        what a tensor at a cut is: map, tokens or vector
bare.py         a model without hooks and compilers
values.py       modules, functions and values as text and digests, the same in every process
content.py      what a graph computes up to a node, as digests: its operations, settings and tensors
"""
