"""Settings of training runs, named without a path; `elm-hf recipes` lists them."""
