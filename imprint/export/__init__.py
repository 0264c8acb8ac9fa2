"""The ways out: what was tuned, in the files of other tools, each proven to answer as before."""
