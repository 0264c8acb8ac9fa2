"""What is wrong with data, and with the machine."""
