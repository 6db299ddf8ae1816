"""Samples of ECG-Reasoning-Benchmark as conversations: the documented layout is checked, and each step becomes a turn."""

from collections.abc import Iterator

from elm_hf.data.messages import text_message
from elm_hf.data.reasoning_steps import CRITERION, DECISION, FINDING, GROUNDING_TYPES, INITIAL, LEAD_GROUNDING, RELEASE
from elm_hf.prepare.instruct import EntryError
from elm_hf.utils.errors import short


GROUNDING = "ecg_grounding"
LOOP_KEYS = (CRITERION, FINDING, GROUNDING, DECISION)
# Keys of the same steps in files that are older than the documented layout.
_EARLIER_KEYS = {"finding", "grounding", "decision"}
_ONE_OPTION = "Answer with one of these options, word for word."
_ALL_OPTIONS = "Answer with all of these options that are true, separated by commas."


def sample_conversation(sample: dict, data_source: str) -> dict:
    """
    Return the columns of the conversation of a sample, without the names of its ECG.

    The question of each step stands with its options in a turn of the user, and the true options in the answer.

    Args:
        sample: an object with `metadata` and `data`.
        data_source: the data source that `metadata` must name.

    Returns:
        `sample_id`, `ecg_id`, and columns of the conversation.

    Raises:
        EntryError: the sample does not have the documented layout. The message names the field.
    """
    metadata, data = _object(sample, "metadata"), _object(sample, "data")
    sample_id, dx_label = metadata.get("id"), metadata.get("dx_label")
    if type(sample_id) is not int or sample_id < 0:
        raise _damaged("metadata.id", sample_id, "a whole number")
    if metadata.get("data_source") != data_source:
        raise _damaged("metadata.data_source", metadata.get("data_source"), repr(data_source))
    ecg_id = metadata.get("ecg_id")
    if not isinstance(ecg_id, str | int) or not str(ecg_id).isdecimal():
        raise _damaged("metadata.ecg_id", ecg_id, "the number of an ECG")
    diagnosis = _text(metadata, "target_dx", "metadata.target_dx")
    if not isinstance(dx_label, bool):
        raise _damaged("metadata.dx_label", dx_label, "true or false")
    asked = list(_questions(data))
    steps = [step for _, step in asked]
    expected = "Yes" if dx_label else "No"
    if steps[0]["answer"] != [expected]:
        raise _damaged(f"data.{INITIAL}.answer", steps[0]["answer"][0], f"{expected!r}, as dx_label says")
    return {
        "sample_id": sample_id,
        "ecg_id": str(ecg_id).lstrip("0") or "0",
        "messages": list(_messages(asked)),
        "question_type": "stepwise_reasoning",
        "attribute_type": diagnosis,
        "question": asked[0][0],
        "answer": steps[0]["answer"],
        "stratum": f"{diagnosis}: {expected.lower()}",
        "target_dx": diagnosis,
        "dx_label": dx_label,
        "steps": steps,
    }


def _questions(data: dict) -> Iterator[tuple[str, dict]]:
    """Each question with its step, in the order in which they are asked."""
    yield _question(data, INITIAL, f"data.{INITIAL}", -1, has_index=False)
    loops = data.get("reasoning")
    if not isinstance(loops, list) or not loops:
        raise _damaged("data.reasoning", loops, "a list of steps")
    for number, loop in enumerate(loops):
        place = f"data.reasoning[{number}]"
        if not isinstance(loop, dict) or set(loop) != set(LOOP_KEYS):
            raise _wrong_keys(place, loop)
        for key in LOOP_KEYS:
            if key != GROUNDING:
                yield _question(loop, key, f"{place}.{key}", number)
                continue
            if not isinstance(loop[key], list):
                raise _damaged(f"{place}.{key}", loop[key], "a list of questions")
            for index, one in enumerate(loop[key]):
                yield _grounding_question(one, f"{place}.{key}[{index}]", number)


def _wrong_keys(place: str, loop: object) -> EntryError:
    if isinstance(loop, dict) and _EARLIER_KEYS & set(loop):
        found = ", ".join(sorted(_EARLIER_KEYS & set(loop)))
        return EntryError(
            "layout of an earlier release",
            f"{place} has the keys {found} of an earlier layout; download the files of release {RELEASE} or later",
        )
    found = sorted(loop) if isinstance(loop, dict) else loop
    return _damaged(place, found, f"an object with {', '.join(LOOP_KEYS)}")


def _grounding_question(one: object, place: str, loop: int) -> tuple[str, dict]:
    kind = one.get("question_type") if isinstance(one, dict) else None
    if kind not in GROUNDING_TYPES:
        raise _damaged(f"{place}.question_type", kind, " or ".join(GROUNDING_TYPES))
    if not isinstance(one.get("answer"), list):
        raise _damaged(f"{place}.answer", one.get("answer"), "a list of options")
    index = one.get("answer_idx")
    text, step = _step(one, kind, place, loop, one["answer"], index if isinstance(index, list) else [index])
    if kind != LEAD_GROUNDING and len(step["answer"]) != 1:
        raise _damaged(f"{place}.answer", one["answer"], "one option")
    return text, step


def _question(parent: dict, key: str, place: str, loop: int, has_index: bool = True) -> tuple[str, dict]:
    one = parent.get(key)
    if not isinstance(one, dict):
        raise _damaged(place, one, "an object")
    if one.get("question_type") != key:
        raise _damaged(f"{place}.question_type", one.get("question_type"), repr(key))
    answer = _text(one, "answer", f"{place}.answer")
    index = [one.get("answer_idx")] if has_index else None
    return _step(one, key, place, loop, [answer], index)


def _step(one: dict, kind: str, place: str, loop: int, answer: list, index: list | None) -> tuple[str, dict]:
    """A question and its step; `index` has the numbers of the true options, None if the question has none."""
    options = one.get("options")
    is_list = isinstance(options, list) and all(isinstance(option, str) and option.strip() for option in options)
    if not is_list or len(options) < 2 or len({option.lower() for option in options}) < len(options):
        raise _damaged(f"{place}.options", options, "a list of two or more different options")
    if not answer or any(option not in options for option in answer) or len(set(answer)) < len(answer):
        raise _damaged(f"{place}.answer", answer, f"one or more of the options {short(options)}")
    places = sorted(options.index(option) for option in answer)
    if index is not None and sorted(index, key=str) != sorted(places, key=str):
        raise _damaged(f"{place}.answer_idx", index, f"{places}, the place of the answer among the options")
    step = {"type": kind, "loop": loop, "options": options, "answer": answer}
    return _text(one, "question", f"{place}.question"), step


def _messages(asked: list[tuple[str, dict]]) -> Iterator[dict]:
    for number, (question, step) in enumerate(asked):
        options = "\n".join(f"- {option}" for option in step["options"])
        how = _ALL_OPTIONS if step["type"] == LEAD_GROUNDING else _ONE_OPTION
        message = text_message("user", f"{question}\n\nOptions:\n{options}\n\n{how}")
        if number == 0:
            message["content"].insert(0, {"type": "ecg", "text": None})
        yield message
        yield text_message("assistant", ", ".join(step["answer"]))


def _object(parent: dict, key: str) -> dict:
    if not isinstance(parent.get(key), dict):
        raise _damaged(key, parent.get(key), "an object")
    return parent[key]


def _text(parent: dict, key: str, place: str) -> str:
    found = parent.get(key)
    if not isinstance(found, str) or not found.strip():
        raise _damaged(place, found, "text")
    return found.strip()


def _damaged(place: str, found: object, expected: str) -> EntryError:
    shown = repr(found) if isinstance(found, str) else found
    return EntryError("damaged entry", f"{place} is {short(shown, 80)}, expected {expected}")
