"""What owns the device and advances rollouts: admission, batching, the processes that compute."""
