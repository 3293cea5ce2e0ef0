"""Time and score mmtk beside ANTs, greedy and demons, every run in a process of its own.

    python -m benchmarks brains-2mm tumor-real --data DIR --peers-python PYTHON
    python -m benchmarks.startup
    python -m benchmarks.page

One file has one task:

    cases     what is registered, and by which methods
    methods   the settings of each method, by name
    prepare   (own process) writes fixed, moving, mask and one affine for all into a folder
    workers/  (own process, measured) one tool each: reads that folder, writes ``displacement.nii.gz``
    score     (own process) reads the displacement, the same for every tool, and writes numbers
    measure   wall seconds, CPU seconds and peak memory of a process, from outside
    store     one line of JSON a run in ``results/``; a run that stands there is not made again
    page      ``docs/benchmarks.md`` and its pictures

Whoever runs the peers needs ``mmtk[baselines]``, here or in another environment (``--peers-python``): a worker of
a peer imports nothing of mmtk. Wall seconds mean something on an idle machine only, so every line also has the CPU
seconds and the load average before and after.
"""
