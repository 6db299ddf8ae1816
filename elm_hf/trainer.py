"""The trainer of ELMs and the card that it fills from its run."""

from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData
from peft import PeftModel
from trl import SFTTrainer

from elm_hf.modeling.configuration_elm import ElmConfig
from elm_hf.training import ElmScriptArguments


class ElmTrainer(SFTTrainer):
    """
    TRL's `SFTTrainer` with a card that says how an ELM is used and what this one learnt from.

    Args:
        script_args: `ElmScriptArguments` of the run.
        base_model: repository or folder of the checkpoint that training starts from.
        learning: names of the parts that learn.
        args, kwargs: of `SFTTrainer`.
    """

    def __init__(self, *args, script_args: ElmScriptArguments, base_model: str, learning: list[str], **kwargs):
        self.script_args = script_args
        self.base_model = base_model
        self.learning = learning
        super().__init__(*args, **kwargs)

    def create_model_card(self, model_name: str | None = None, **kwargs):
        """Writes `README.md` into the output folder; called by the trainer with each checkpoint and push."""
        if self.is_world_process_zero():
            card = model_card(self, model_name or Path(self.args.output_dir).name)
            card.save(Path(self.args.output_dir) / "README.md")


def model_card(trainer: ElmTrainer, name: str) -> ModelCard:
    """The card of what the trainer has trained so far, under this heading."""
    args, script_args = trainer.args, trainer.script_args
    model = trainer.accelerator.unwrap_model(trainer.model)
    is_adapter = isinstance(model, PeftModel)
    config: ElmConfig = model.config
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    repos = [path for path in script_args.dataset if not Path(path).is_dir()]
    is_local = Path(trainer.base_model).is_dir()
    data = ModelCardData(
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="text-generation",
        base_model=None if is_local else trainer.base_model,
        datasets=repos or None,
        tags=["ecg", "electrocardiogram", "ecg-language-model", "elm-hf", "sft"],
    )
    return ModelCard.from_template(
        data,
        template_str=files("elm_hf.cards").joinpath("model_card.md").read_text(encoding="utf-8"),
        name=name,
        repo=trainer.hub_model_id or args.output_dir,
        is_adapter=is_adapter,
        num_leads=config.num_leads,
        representation=config.representation,
        num_samples=config.num_samples,
        encoder="none" if config.encoder_config is None else config.encoder_config.model_type,
        projector=config.projector_type or "none",
        llm=config.text_config.model_type,
        num_parameters=model.num_parameters(),
        num_trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        trained=", ".join(trainer.learning) + (" (the LLM through LoRA adapters)" if is_adapter else ""),
        base_model=Path(trainer.base_model).name if is_local else trainer.base_model,
        datasets=", ".join(path if path in repos else Path(path).name for path in script_args.dataset),
        fold=script_args.fold,
        steps=trainer.state.global_step,
        batch_size=args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size,
        learning_rate=f"{args.learning_rate:g}",
        schedule=str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
        seed=args.seed,
        loss=f"{losses[-1]:.4g}" if losses else "not logged",
        version=version("elm-hf"),
        transformers_version=version("transformers"),
        trl_version=version("trl"),
    )
