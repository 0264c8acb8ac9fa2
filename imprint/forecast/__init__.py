"""What a training run will take: memory, time and disk, from shapes alone; no weights are read and no GPU is needed."""
