"""The words of questions from labels: how findings are named in questions and answers, and wordings by topic and kind."""

# Findings whose name in sentences is not their label. An article at the start is left out in answers.
_PHRASES = {
    "myocardial infarction of any site": "a myocardial infarction",
    "conduction disturbance": "a conduction disturbance",
    "normal functioning artificial pacemaker": "a paced rhythm",
    "paced rhythm": "a paced rhythm",
    "non-diagnostic T abnormalities": "non-diagnostic T-wave abnormalities",
    "T-wave abnormality": "a T-wave abnormality",
    "inverted T-waves": "inverted T waves",
    "low amplitude T-waves": "low-amplitude T waves",
    "ST change": "ST changes",
    "abnormal QRS": "an abnormal QRS complex",
    "Q waves present": "pathological Q waves",
    "long QT-interval": "a long QT interval",
    "short QT interval": "a short QT interval",
    "prolonged PR interval": "a prolonged PR interval",
    "short PR interval": "a short PR interval",
    "digitalis-effect": "a digitalis effect",
    "electrolyte disturbance or drug effect": "ST-T changes compatible with an electrolyte disturbance or a drug effect",
    "atrial premature complex": "atrial premature complexes",
    "ventricular premature complex": "ventricular premature complexes",
    "premature complex(es)": "premature complexes of unknown origin",
    "bigeminal pattern": "a bigeminal pattern",
    "trigeminal pattern": "a trigeminal pattern",
    "supraventricular arrhythmia": "a supraventricular arrhythmia",
    "supraventricular tachycardia": "a supraventricular tachycardia",
    "paroxysmal supraventricular tachycardia": "a paroxysmal supraventricular tachycardia",
    "left atrial overload/enlargement": "left atrial overload or enlargement",
    "right atrial overload/enlargement": "right atrial overload or enlargement",
    "voltage criteria (QRS) for left ventricular hypertrophy": "QRS voltage criteria for left ventricular hypertrophy",
    "low QRS voltages in the frontal and horizontal leads": "low QRS voltages in the limb and chest leads",
    "non-specific intraventricular conduction disturbance": "a non-specific intraventricular conduction disturbance",
    "subendocardial injury in anteroseptal leads": "subendocardial injury in the anteroseptal leads",
    "subendocardial injury in anterolateral leads": "subendocardial injury in the anterolateral leads",
    "subendocardial injury in inferior leads": "subendocardial injury in the inferior leads",
    "subendocardial injury in inferolateral leads": "subendocardial injury in the inferolateral leads",
    "subendocardial injury in lateral leads": "subendocardial injury in the lateral leads",
    "normal axis": "a normal axis",
    "horizontal axis": "a horizontal axis",
    "vertical axis": "a vertical axis",
    "indeterminate axis": "an indeterminate axis",
    "pacemaker": "an artificial pacemaker",
} | {
    f"{site} myocardial infarction": f"{'an' if site[0] in 'aio' else 'a'} {site} myocardial infarction"
    for site in (
        *("anterior", "anteroseptal", "anterolateral", "inferior", "inferolateral", "inferoposterior", "lateral"),
        *("inferoposterolateral", "posterior", "acute", "old"),
    )
}  # fmt: skip

# Kinds of questions. The id of a template is 100 times the number of its topic plus the number of its kind.
VERIFY, CHOOSE, CHOOSE_ALL, QUERY, NEW, GONE, BOTH, WHAT_IS_NEW, WHAT_IS_GONE = range(1, 10)
QUESTION_TYPES = {
    VERIFY: "single-verify",
    CHOOSE: "single-choose",
    CHOOSE_ALL: "single-choose",
    QUERY: "single-query",
    NEW: "comparison_consecutive-verify",
    GONE: "comparison_consecutive-verify",
    BOTH: "comparison_consecutive-verify",
    WHAT_IS_NEW: "comparison_consecutive-query",
    WHAT_IS_GONE: "comparison_consecutive-query",
}

# {x} is a finding, {options} are several; {first} and {second} are the ECGs of a comparison; {topic} names a topic.
_WORDINGS = {
    VERIFY: (
        "Does this ECG show {x}?",
        "Do you find {x} in this ECG?",
        "Can {x} be seen in this ECG?",
        "Does this recording show {x}?",
        "Would you report {x} in this ECG?",
    ),
    CHOOSE: (
        "Which does this ECG show: {options}?",
        "Which of these is present in this ECG: {options}?",
        "Does this ECG show {options}? Name what is present.",
        "Decide between these for this ECG: {options}.",
    ),
    CHOOSE_ALL: (
        "Which {topic} does this ECG show: {options}?",
        "Choose the {topic} of this ECG: {options}.",
        "One of these is the {topic} of this ECG. Which one? {options}",
    ),
    QUERY: (
        "Which {topic} does this ECG show?",
        "Name the {topic} in this ECG.",
        "What {topic} can be seen in this ECG?",
        "List the {topic} of this recording.",
    ),
    NEW: (
        "Compared with the {first}, does the {second} newly show {x}?",
        "Does the {second} show {x} that the {first} did not show?",
        "Did {x} appear between the {first} and the {second}?",
    ),
    GONE: (
        "Compared with the {first}, does the {second} no longer show {x}?",
        "Did the {first} show {x} that the {second} does not show?",
        "Did {x} disappear between the {first} and the {second}?",
    ),
    BOTH: (
        "Do both the {first} and the {second} show {x}?",
        "Can {x} be seen in the {first} as well as in the {second}?",
        "Do the {first} and the {second} have {x} in common?",
    ),
    WHAT_IS_NEW: (
        "Compared with the {first}, which {topic} does the {second} newly show?",
        "Which {topic} does the {second} show that the {first} did not show?",
        "Name the {topic} that appeared between the {first} and the {second}.",
    ),
    WHAT_IS_GONE: (
        "Compared with the {first}, which {topic} does the {second} no longer show?",
        "Which {topic} did the {first} show that the {second} does not show?",
        "Name the {topic} that disappeared between the {first} and the {second}.",
    ),
}
_OF_TOPIC = {
    ("normal", VERIFY): (
        "Is this ECG normal?",
        "Is this a normal ECG?",
        "Would you report this ECG as normal?",
        "Is this recording free of abnormal findings?",
    ),
    ("normal", NEW): (
        "The {first} was abnormal and the {second} is normal: is this correct?",
        "Compared with the {first}, has the {second} become normal?",
    ),
    ("normal", GONE): (
        "The {first} was normal and the {second} is abnormal: is this correct?",
        "Compared with the {first}, is the {second} no longer normal?",
    ),
    ("normal", BOTH): ("Are both the {first} and the {second} normal?", "Is neither of these two ECGs abnormal?"),
    ("rhythm", CHOOSE): (
        "Which rhythm does this ECG show: {options}?",
        "Is the rhythm of this ECG {options}?",
        "Decide on the rhythm of this ECG: {options}.",
    ),
    ("rhythm", QUERY): (
        "What is the rhythm of this ECG?",
        "Which rhythm does this ECG show?",
        "Name the rhythm of this ECG.",
        "What rhythm do you see in this recording?",
    ),
    ("heart_axis", CHOOSE): (
        "Which axis does this ECG have: {options}?",
        "Is the heart axis of this ECG {options}?",
        "Decide on the frontal axis of this ECG: {options}.",
    ),
    ("heart_axis", QUERY): (
        "What is the heart axis of this ECG?",
        "How is the frontal QRS axis of this ECG?",
        "Describe the electrical axis of this ECG.",
    ),
    ("stage_of_infarction", VERIFY): (
        "This ECG shows a myocardial infarction. Is it in {x}?",
        "Is the myocardial infarction in this ECG in {x}?",
        "Would you date the infarction in this ECG to {x}?",
    ),
    ("stage_of_infarction", CHOOSE): (
        "In which stage is the myocardial infarction in this ECG: {options}?",
        "Is the infarction in this ECG in {options}?",
    ),
    ("stage_of_infarction", QUERY): (
        "In which stage is the myocardial infarction in this ECG?",
        "This ECG shows a myocardial infarction. Which stage is it?",
        "How would you date the infarction in this ECG?",
    ),
    ("noise", VERIFY): (
        "Is this ECG disturbed by {x}?",
        "Does the signal of this ECG have {x}?",
        "Is the quality of this ECG reduced by {x}?",
        "Do you see {x} in this recording?",
    ),
    ("noise", CHOOSE): (
        "What disturbs this ECG: {options}?",
        "Which of these disturbances does this recording have: {options}?",
    ),
    ("noise", QUERY): (
        "Which kinds of noise does this ECG have?",
        "What disturbs the signal of this ECG?",
        "Name the disturbances in this recording.",
    ),
}
# How wordings name a topic ({topic}).
_TOPICS = {
    "superclass": "groups of abnormalities (infarction, ST-T changes, conduction disturbance, hypertrophy)",
    "diagnostic": "abnormal diagnoses",
    "form": "abnormalities of waves and complexes",
    "rhythm": "rhythm",
    "arrhythmia": "arrhythmias",
    "heart_axis": "heart axis",
    "stage_of_infarction": "stage of infarction",
    "noise": "kinds of noise",
    "kind_of_extra_systole": "kinds of extrasystoles",
    "finding": "findings",
}


def phrase(label: str) -> str:
    """Return the name of a finding in a sentence, with an article if it needs one."""
    return _PHRASES.get(label, label)


def answer_name(label: str) -> str:
    """Return the name of a finding in an answer, without an article."""
    return phrase(label).removeprefix("a ").removeprefix("an ")


def wordings(topic: str, kind: int) -> tuple[str, ...]:
    """Return the wordings of a template, with the fields `{x}`, `{options}`, `{first}` and `{second}`."""
    found = _OF_TOPIC.get((topic, kind), _WORDINGS[kind])
    return tuple(wording.replace("{topic}", _TOPICS.get(topic, topic)) for wording in found)
