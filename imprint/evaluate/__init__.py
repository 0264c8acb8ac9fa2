"""Commands that evaluate models: evaluate, compare, score, perplexity, forgetting and report."""
