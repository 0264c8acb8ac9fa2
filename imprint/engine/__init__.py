"""The one door to processes, devices and the optimizer: one process or many, each with all weights or with a share of them."""
