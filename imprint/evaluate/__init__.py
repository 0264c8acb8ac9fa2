"""`imprint evaluate RUN|MODEL --data FILE`: answers written as they come, then scores under a named protocol."""
