"""What is trained: a prefix beside a frozen network, or all of its parameters."""
