"""What tests are run by: backends, GPU kernels executed here or interpreted, ranks, forked processes, wrong peers."""
