"""Films of policies: what is seen, its caption, and the files it is written to."""
