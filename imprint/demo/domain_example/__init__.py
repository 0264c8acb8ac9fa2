"""An invented craft with words and facts of its own: what a domain is to a base that has never read of it."""
