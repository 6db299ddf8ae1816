"""`python -m elm_hf`: the command, for `accelerate launch -m elm_hf evaluate ...`."""

from elm_hf.cli import main


main()
