"""The CUDA kernel set. Its kernels come with a later version; until then `lvm.kernels.load("cuda")` raises."""
