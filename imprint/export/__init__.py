"""Export of tuned models to the files of other tools, verified to answer as before."""
