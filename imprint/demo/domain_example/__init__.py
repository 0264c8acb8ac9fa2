"""An invented craft with its own terms and facts: an example of a domain that is new to the base."""
