"""The workshop's GPT, trained by megatron-core 0.16.1."""
