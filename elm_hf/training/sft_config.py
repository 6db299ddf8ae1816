"""TRL's `SFTConfig` with defaults for ELMs."""

from dataclasses import dataclass, field

from trl import SFTConfig


@dataclass
class ElmSFTConfig(SFTConfig):
    """
    TRL's `SFTConfig`, in which activation checkpointing is on under its present name, and compilation is on where it is
    known to help ([`compilation_of`]).
    """

    gradient_checkpointing: bool | None = field(
        default=None, metadata={"help": "Deprecated alias of --activation_checkpointing.", "nargs": "?", "const": True}
    )
    activation_checkpointing: bool | None = field(
        default=None,
        metadata={
            "help": "Compute the activations of the LLM's layers again in the backward pass instead of keeping them: "
            "less memory, about 20%% slower. On by default.",
            "nargs": "?",
            "const": True,
        },
    )
    torch_compile: bool | None = field(
        default=None,
        metadata={
            "help": "Compile the LLM's layers, once for each of a few lengths to which batches are then padded. On by "
            "default on a GPU with --pack_by_ecg; --torch_compile false turns it off.",
            "nargs": "?",
            "const": True,
        },
    )

    def __post_init__(self):
        if self.activation_checkpointing is None and self.gradient_checkpointing is None:
            self.activation_checkpointing = True
        super().__post_init__()
