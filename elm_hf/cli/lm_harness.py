"""The subcommand that runs the LM Evaluation Harness with the tasks and the model of elm-hf."""

from importlib.util import find_spec

import typer

from elm_hf.cli.app import app


@app.command("lm-eval", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def lm_eval(context: typer.Context):
    """
    Run the LM Evaluation Harness with the tasks and the model of elm-hf.

    Its arguments are those of lm-eval, for example: run --model elm-hf --model_args pretrained=my-elm --tasks elm_hf. For
    their list: elm-hf lm-eval -- run --help.
    """
    if find_spec("lm_eval") is None:
        raise ImportError("elm-hf lm-eval needs the LM Evaluation Harness: pip install 'elm-hf[harness]'")
    from elm_hf.other_models.lm_harness import run

    run(context.args)
