"""Fine-tunes an ELM from a clone: `accelerate launch train_sft.py ...` is `accelerate launch -m elm_hf.training.sft ...`."""

from elm_hf.training.sft import main


if __name__ == "__main__":
    main()
