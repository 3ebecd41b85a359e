"""Pretrain in a tenth of the GPU's memory: the arguments are its own."""

import torch

from workshop.lab1.pretrain_gpt import main

if __name__ == "__main__":
    torch.cuda.set_per_process_memory_fraction(0.1)
    main()
