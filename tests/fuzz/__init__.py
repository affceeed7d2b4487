"""Random input for every operator of the native backend on the CPU, against the reference: ``python -m fuzz`` from
tests/, docs/robustness.md. A seed makes one input, the same one every time."""
