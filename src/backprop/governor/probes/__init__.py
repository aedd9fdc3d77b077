"""Read what the machine has and uses, from the kernel and from the tools of its GPUs."""
