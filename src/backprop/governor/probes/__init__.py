"""What the machine has and uses: read from the kernel and from the tools of its GPUs."""
