"""Pictures and pages for people: the loss curve of a run, and what tuning changed."""
