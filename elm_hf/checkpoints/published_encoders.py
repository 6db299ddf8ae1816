"""Facts about the published encoders that `elm-hf convert` reads: licence, citation, pre-training data; their cards."""

from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.resources import files

from huggingface_hub import ModelCardData
from transformers import FeatureExtractionMixin, PreTrainedModel

from elm_hf.checkpoints.card import CardFile
from elm_hf.utils.encoder_origin import UNKNOWN_LICENSE


@dataclass(frozen=True)
class PublishedEncoder:
    """
    Facts about a published encoder.

    Attributes:
        title: name of the encoder.
        homepage: its repository.
        license: identifier of the licence of the weights, as on the Hub; `UNKNOWN_LICENSE` if none is stated.
        license_note: what is known about the licence, and what it permits.
        citation: BibTeX entry.
        pretraining: the data on which the weights were trained, in words.
        pretraining_data: the same as a list of names, those of `elm-hf prepare` where it knows the dataset.
    """

    title: str
    homepage: str
    license: str
    license_note: str
    citation: str
    pretraining: str
    pretraining_data: tuple[str, ...]

    @property
    def origin(self) -> dict:
        """The fields of a configuration that tell where the weights are from."""
        return {"pretraining_data": self.pretraining_data, "license": self.license}


ECGFOUNDER = PublishedEncoder(
    title="ECGFounder",
    homepage="https://github.com/PKUDigitalHealth/ECGFounder",
    license="mit",
    license_note=(
        "The code is under the MIT licence. Third parties list the weights on the Hub (`PKUDigitalHealth/ECGFounder`) "
        "under the MIT licence as well. It permits commercial use."
    ),
    citation="""@article{li2025ecgfounder,
  title = {An Electrocardiogram Foundation Model Built on over 10 Million Recordings},
  author = {Li, Jun and Aguirre, Aaron D. and Moura Junior, Valdery and Jin, Jiarui and Liu, Che and Zhong, Lanhai and
    Sun, Chenxi and Clifford, Gari and Westover, M. Brandon and Hong, Shenda},
  journal = {NEJM AI},
  volume = {2},
  number = {7},
  year = {2025},
  doi = {10.1056/aioa2401033}
}""",
    pretraining=(
        "Classification of 150 statements in the reports of the Harvard-Emory ECG Database (10.8 million ECGs of 1.8 "
        "million patients)."
    ),
    pretraining_data=("heedb",),
)
CLEF = PublishedEncoder(
    title="CLEF",
    homepage="https://github.com/Nokia-Bell-Labs/ecg-foundation-model",
    license="bsd-3-clause-clear",
    license_note=(
        "The code is under the Clear BSD licence, which permits commercial use and grants no patent licence. The weights "
        "(Zenodo record 17572734) have no licence of their own in the authors' repository."
    ),
    citation="""@article{shu2025clef,
  title = {{CLEF}: Clinically-Guided Contrastive Learning for Electrocardiogram Foundation Models},
  author = {Shu, Yuxuan and Charlton, Peter H. and Kawsar, Fahim and Hernesniemi, Jussi and Malekzadeh, Mohammad},
  journal = {arXiv preprint arXiv:2512.02180},
  year = {2025}
}""",
    pretraining="Contrastive learning, weighted by a clinical risk score, on MIMIC-IV-ECG (161,000 patients).",
    pretraining_data=("mimic_iv_ecg",),
)
ECG_FM = PublishedEncoder(
    title="ECG-FM",
    homepage="https://github.com/bowang-lab/ECG-FM",
    license="mit",
    license_note=(
        "The code is under the MIT licence. Third parties list the weights on the Hub (`wanglab/ecg-fm`) under the MIT "
        "licence as well. It permits commercial use."
    ),
    citation="""@article{mckeen2025ecgfm,
  title = {{ECG-FM}: an open electrocardiogram foundation model},
  author = {McKeen, Kaden and Masood, Sameer and Toma, Augustin and Rubin, Barry and Wang, Bo},
  journal = {JAMIA Open},
  year = {2025},
  note = {arXiv:2408.05178}
}""",
    pretraining=(
        "Contrastive learning with random leads masked on MIMIC-IV-ECG and on the PhysioNet/CinC Challenge 2021, which "
        "contains PTB-XL, CPSC, Georgia, Chapman-Shaoxing and Ningbo."
    ),
    pretraining_data=("mimic_iv_ecg", "ptb_xl", "cpsc", "csn", "georgia"),
)
HUBERT_ECG = PublishedEncoder(
    title="HuBERT-ECG",
    homepage="https://github.com/Edoar-do/HuBERT-ECG",
    license="cc-by-nc-4.0",
    license_note=(
        "Code and weights are under CC BY-NC 4.0: **commercial use is not permitted**, and the authors must be named."
    ),
    citation="""@article{coppola2024hubertecg,
  title = {{HuBERT-ECG}: a self-supervised foundation model for broad and scalable cardiac applications},
  author = {Coppola, Edoardo and Savardi, Mattia and Massussi, Mauro and Adamo, Marianna and Metra, Marco and
    Signoroni, Alberto},
  journal = {medRxiv},
  year = {2024},
  doi = {10.1101/2024.11.14.24317328}
}""",
    pretraining=(
        "Masked prediction of clusters on 9.1 million ECGs from four countries. The authors name these collections, on "
        "which they also fine-tuned it: PTB, PTB-XL, CPSC and its extra records, Georgia, Chapman-Shaoxing, Ningbo, SPH, "
        "CODE, SaMi-Trop and Hefei."
    ),
    pretraining_data=("ptb_xl", "cpsc", "csn", "code15", "georgia", "ptb", "sph", "sami_trop", "hefei"),
)
ECG_JEPA = PublishedEncoder(
    title="ECG-JEPA",
    homepage="https://github.com/sehunfromdaegu/ECG_JEPA",
    license="mit",
    license_note=(
        "The repository, which links the weights, is under the MIT licence. It permits commercial use. The weights have "
        "no statement of their own."
    ),
    citation="""@article{kim2024ecgjepa,
  title = {Learning General Representation of 12-Lead Electrocardiogram with a Joint-Embedding Predictive Architecture},
  author = {Kim, Sehun},
  journal = {arXiv preprint arXiv:2410.08559},
  year = {2024}
}""",
    pretraining=(
        "Prediction of the representations of masked patches on Chapman-Shaoxing, Ningbo and CODE-15 (about 180,000 "
        "ECGs)."
    ),
    pretraining_data=("csn", "code15"),
)
ECG_CPC = PublishedEncoder(
    title="ECG-CPC",
    homepage="https://github.com/AI4HealthUOL/ecg-fm-benchmarking",
    license="cc-by-4.0",
    license_note=(
        "Third parties list the weights (figshare record 30192604) under CC BY 4.0, which permits commercial use and "
        "requires that the authors are named. The authors' code has no licence and is not part of this checkpoint."
    ),
    citation="""@inproceedings{almasud2026benchmarking,
  title = {Benchmarking {ECG} {FMs}: A Reality Check Across Clinical Tasks},
  author = {Al-Masud, M A and Lopez Alcaraz, Juan Miguel and Strodthoff, Nils},
  booktitle = {International Conference on Learning Representations},
  year = {2026},
  note = {arXiv:2509.25095}
}""",
    pretraining="Contrastive predictive coding on the Harvard-Emory ECG Database (10.7 million ECGs).",
    pretraining_data=("heedb",),
)
ECG_COCA = PublishedEncoder(
    title="ECG-CoCa",
    homepage="https://github.com/YubaoZhao/ECG-Chat",
    license=UNKNOWN_LICENSE,
    license_note=(
        "The authors of ECG-Chat, who trained the weights, state no licence for them or for their code. They are "
        "converted for local use: **do not publish them**, and do not use them commercially without the authors' "
        "permission. `elm-hf publish-model` refuses models that contain them."
    ),
    citation="""@article{zhao2024ecgchat,
  title = {{ECG-Chat}: A Large {ECG}-Language Model for Cardiac Disease Diagnosis},
  author = {Zhao, Yubao and Zhang, Tian and Wang, Xu and Han, Puyu and Chen, Tong and Huang, Linlin and Jin, Youzhu and
    Kang, Jiaju},
  journal = {arXiv preprint arXiv:2408.08849},
  year = {2024}
}""",
    pretraining=(
        "Contrastive learning with reports, and captioning, on MIMIC-IV-ECG. Descriptions by third parties also name "
        "PTB-XL, CPSC 2018, SPH, Chapman-Shaoxing and Ningbo, which could not be verified."
    ),
    pretraining_data=("mimic_iv_ecg",),
)


def encoder_card(
    name: str, published: PublishedEncoder, model: PreTrainedModel, feature_extractor: FeatureExtractionMixin
) -> CardFile:
    """
    Creates the card of a converted encoder.

    Args:
        name: name of the checkpoint.
        published: facts about the encoder.
        model: the converted model.
        feature_extractor: its preprocessing.
    """
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="feature-extraction",
        license=published.license,
        tags=["ecg", "electrocardiogram", "elm-hf", model.config.model_type],
    )
    is_classifier = type(model).__name__.endswith("ForSequenceClassification")
    return CardFile.from_template(
        data,
        template_str=files("elm_hf.cards").joinpath("encoder_card.md").read_text(encoding="utf-8"),
        name=name,
        architecture=type(model).__name__,
        num_parameters=model.num_parameters(),
        num_labels=model.config.num_labels if is_classifier else 0,
        leads=feature_extractor.leads,
        sampling_rate=feature_extractor.sampling_rate,
        num_samples=feature_extractor.num_samples,
        version=version("elm-hf"),
        **asdict(published),
    )
