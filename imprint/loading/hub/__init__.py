"""Models of a hub: their names, their files, the cache they share with other programs, and the download."""
