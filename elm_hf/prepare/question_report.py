"""The numbers of questions and the shares of answers of each template, for the build report."""

from collections import Counter, defaultdict
from pathlib import Path

import pyarrow.parquet as pq


# Number of the most frequent answers that are listed.
NUM_ANSWERS = 5


def question_report(joined: Path) -> list[dict]:
    """
    Count the questions and answers of each template.

    Args:
        joined: Parquet file with the columns `question_type`, `attribute_type`, `template_id`, `answer` and, if the
            questions are about findings, `attribute`.

    Returns:
        An entry for each template, none if the questions have no templates: `questions`, their number; `answers`, the
        shares of the most frequent ones; `majority`, the share of the most frequent one; and `blind_majority`, the
        accuracy of the most frequent answer to the template with the same findings in the question. This is the best
        that can be achieved without the ECG.
    """
    names = pq.read_schema(joined).names
    if "template_id" not in names:
        return []
    columns = ["template_id", "question_type", "attribute_type", "answer"]
    columns += ["attribute"] if "attribute" in names else []
    counts = defaultdict(lambda: defaultdict(Counter))
    with pq.ParquetFile(joined) as file:
        for batch in file.iter_batches(columns=columns):
            for key, *kind, answer, attribute in _rows(batch):
                if key is not None:
                    counts[key, *kind][attribute][answer] += 1
    return [_entry(*key, counts[key]) for key in sorted(counts, key=str)]


def _rows(batch):
    columns = [batch[name].to_pylist() for name in ("template_id", "question_type", "attribute_type")]
    answers = [", ".join(sorted(answer)) for answer in batch["answer"].to_pylist()]
    has_attribute = "attribute" in batch.schema.names
    attributes = batch["attribute"].to_pylist() if has_attribute else [None] * len(answers)
    return zip(*columns, answers, (tuple(attribute or ()) for attribute in attributes))


def _entry(template_id: int, question_type: str, attribute_type: str, by_attribute: dict[tuple, Counter]) -> dict:
    answers = sum(by_attribute.values(), Counter())
    number = answers.total()
    return {
        "template_id": template_id,
        "question_type": question_type,
        "attribute_type": attribute_type,
        "questions": number,
        "answers": {answer: round(count / number, 4) for answer, count in answers.most_common(NUM_ANSWERS)},
        "majority": round(max(answers.values()) / number, 4),
        "blind_majority": round(sum(max(each.values()) for each in by_attribute.values()) / number, 4),
    }
