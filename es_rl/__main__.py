"""`python -m es_rl VERB …` is `es-rl VERB …`."""

from es_rl.cli import main

main()
