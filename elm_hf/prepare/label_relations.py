"""Findings that make the absence of another finding doubtful, so that "no" would not be a certain answer.

Sources list what a reader considered worth mentioning. Of two names for overlapping findings, often only one is listed:
an ECG with "first degree AV block" has a prolonged PR interval, whether this is listed or not. Such an ECG is used in
no question whose answer requires that the other finding is absent.
"""

from collections import defaultdict
from functools import cache


_INFARCTION = frozenset({"myocardial infarction", "acute myocardial infarction", "old myocardial infarction"})
_ANTERIOR = frozenset(
    {
        *(
            "anterior myocardial infarction",
            "anteroseptal myocardial infarction",
            "anterolateral myocardial infarction",
        ),
        *("subendocardial injury in anteroseptal leads", "subendocardial injury in anterolateral leads"),
    }
)
_INFERIOR = frozenset(
    {
        *("inferior myocardial infarction", "inferolateral myocardial infarction"),
        *("inferoposterior myocardial infarction", "inferoposterolateral myocardial infarction"),
        *("subendocardial injury in inferior leads", "subendocardial injury in inferolateral leads"),
    }
)
_LATERAL = frozenset(
    {
        *("lateral myocardial infarction", "anterolateral myocardial infarction"),
        *("inferolateral myocardial infarction", "inferoposterolateral myocardial infarction"),
        *("subendocardial injury in lateral leads", "subendocardial injury in anterolateral leads"),
        "subendocardial injury in inferolateral leads",
    }
)
_POSTERIOR = frozenset(
    {
        *("posterior myocardial infarction", "inferoposterior myocardial infarction"),
        "inferoposterolateral myocardial infarction",
    }
)
_ALL_INFARCTIONS = _INFARCTION | _ANTERIOR | _INFERIOR | _LATERAL | _POSTERIOR
_INJURIES = frozenset(label for label in _ALL_INFARCTIONS if label.startswith("subendocardial"))
_ANY_ISCHEMIA = frozenset(
    {
        *("non-specific ischemia", "myocardial ischemia", "acute myocardial ischemia", "chronic myocardial ischemia"),
        "coronary heart disease",
    }
)
_ANTERIOR_ISCHEMIA = frozenset({"anterior ischemia", "anteroseptal ischemia", "anterolateral ischemia"})
_LATERAL_ISCHEMIA = frozenset({"lateral ischemia", "anterolateral ischemia", "inferolateral ischemia"})
_INFERIOR_ISCHEMIA = frozenset({"inferior ischemia", "inferolateral ischemia"})
_ISCHEMIA = _ANY_ISCHEMIA | _ANTERIOR_ISCHEMIA | _LATERAL_ISCHEMIA | _INFERIOR_ISCHEMIA
# names for ST-T changes that say what they look like, or nothing
_ST_T = frozenset(
    {
        *("non-specific ST changes", "non-diagnostic T abnormalities", "non-specific T-wave changes"),
        *("T-wave abnormality", "inverted T-waves", "low amplitude T-waves"),
        *("non-specific ST depression", "non-specific ST elevation", "ST depression", "ST elevation"),
        *("inferior ST depression", "ST change", "nonspecific ST-T change", "abnormal ST interval"),
    }
)
# names for ST-T changes that give the cause
_ST_T_CAUSES = _ISCHEMIA | {
    *("digitalis-effect", "electrolyte disturbance or drug effect", "left ventricular strain"),
    *("ST-T changes compatible with ventricular aneurysm", "early repolarization"),
}
_VOLTAGE = frozenset(
    {
        *("left ventricular hypertrophy", "voltage criteria (QRS) for left ventricular hypertrophy"),
        *("high QRS voltage", "left ventricular high voltage", "ventricular hypertrophy", "left ventricular strain"),
    }
)
_LOW_VOLTAGE = frozenset(
    {
        *("low QRS voltages in the frontal and horizontal leads", "low QRS voltage in the chest leads"),
        "low QRS voltage in the limb leads",
    }
)
_BUNDLE_BRANCH = frozenset(
    {
        *("complete left bundle branch block", "complete right bundle branch block", "bundle branch block"),
        *("incomplete left bundle branch block", "incomplete right bundle branch block"),
    }
)
_INTRAVENTRICULAR = frozenset(
    {"non-specific intraventricular conduction disturbance", "diffuse intraventricular block"}
)
_FASCICULAR = frozenset({"left anterior fascicular block", "left posterior fascicular block"})
_PRE_EXCITATION = frozenset({"Wolff-Parkinson-White syndrome", "ventricular pre-excitation"})
_SECOND_DEGREE = frozenset(
    {
        *("second degree AV block", "Mobitz type I second-degree atrioventricular block"),
        *("Mobitz type II second-degree atrioventricular block", "atrioventricular block"),
    }
)
_PACED = frozenset(
    {"normal functioning artificial pacemaker", "paced rhythm", "atrial pacing", "ventricular pacing", "pacemaker"}
)
_SUPRAVENTRICULAR = frozenset(
    {
        *("supraventricular arrhythmia", "supraventricular tachycardia", "paroxysmal supraventricular tachycardia"),
        *("atrial tachycardia", "atrioventricular nodal reentrant tachycardia", "junctional tachycardia"),
        "atrioventricular reentrant tachycardia",
    }
)
_FIBRILLATION = frozenset(
    {
        *("atrial fibrillation", "atrial fibrillation and flutter", "chronic atrial fibrillation"),
        *("paroxysmal atrial fibrillation", "rapid atrial fibrillation"),
    }
)
_OTHER_SINUS = frozenset({"sinus bradycardia", "sinus tachycardia", "sinus arrhythmia"})
_SOME_EXTRASYSTOLES = frozenset({"premature complex(es)", "bigeminal pattern", "trigeminal pattern", "fusion beats"})
_VENTRICULAR = frozenset(
    {
        *("ventricular premature complex", "paired premature ventricular beats", "ventricular bigeminy"),
        *("ventricular trigeminy", "ventricular extrasystoles"),
    }
)
_ATRIAL = frozenset(
    {
        *("atrial premature complex", "blocked premature atrial beat", "atrial bigeminy", "supraventricular bigeminy"),
        *("premature junctional beat", "supraventricular extrasystoles"),
    }
)
# with these, ST-T changes are expected and often not listed
_SECONDARY_ST_T = (
    _PACED
    | _PRE_EXCITATION
    | {"complete left bundle branch block", "complete right bundle branch block", "bundle branch block"}
)
_ABNORMAL_QRS = (
    _ALL_INFARCTIONS | _VOLTAGE | _LOW_VOLTAGE | _BUNDLE_BRANCH | _INTRAVENTRICULAR | _FASCICULAR | _PRE_EXCITATION
) | {
    "Q waves present",
    "right ventricular hypertrophy",
    "normal functioning artificial pacemaker",
    "fragmented QRS complex",
}

# Findings whose names overlap: the absence of each is doubtful if there is another one of the same set.
_FAMILIES = (
    _INFARCTION | _ANTERIOR,
    _INFARCTION | _INFERIOR,
    _INFARCTION | _LATERAL,
    _INFARCTION | _POSTERIOR,
    _ANY_ISCHEMIA | _ANTERIOR_ISCHEMIA,
    _ANY_ISCHEMIA | _LATERAL_ISCHEMIA,
    _ANY_ISCHEMIA | _INFERIOR_ISCHEMIA,
    _ST_T,
    _VOLTAGE,
    _LOW_VOLTAGE,
    _INTRAVENTRICULAR,
    _PRE_EXCITATION,
    frozenset({"first degree AV block", "prolonged PR interval", "atrioventricular block"}),
    _SECOND_DEGREE,
    frozenset({"third degree AV block", "atrioventricular block", "atrioventricular dissociation"}),
    _PACED,
    _SUPRAVENTRICULAR,
    _FIBRILLATION | {"atrial flutter", "supraventricular arrhythmia"},
    _SUPRAVENTRICULAR | {"atrial flutter"},
    _VENTRICULAR | _SOME_EXTRASYSTOLES,
    _ATRIAL | _SOME_EXTRASYSTOLES | {"supraventricular arrhythmia"},
    frozenset({"sinus bradycardia", "bradycardia"}),
    frozenset({"left axis deviation", "extreme left axis deviation"}),
    frozenset({"right axis deviation", "extreme right axis deviation"}),
    frozenset({"normal axis", "horizontal axis", "vertical axis"}),
    frozenset(
        {"left atrial overload/enlargement", "left atrial abnormality", "atrial hypertrophy", "prolonged P wave"}
    ),
    frozenset({"right atrial overload/enlargement", "right atrial abnormality", "atrial hypertrophy", "tall P wave"}),
    frozenset({"right ventricular hypertrophy", "ventricular hypertrophy"}),
)
# Findings, and others that make their absence doubtful.
_DOUBTFUL = (
    (_ST_T, _ST_T_CAUSES | _INJURIES | _SECONDARY_ST_T),
    (_ALL_INFARCTIONS, frozenset({"Q waves present", "poor R wave progression"})),
    (frozenset({"Q waves present"}), _ALL_INFARCTIONS),
    (_INTRAVENTRICULAR, _BUNDLE_BRANCH),
    (_BUNDLE_BRANCH | _INTRAVENTRICULAR | _FASCICULAR, _PACED),
    (frozenset({"bundle branch block"}), _BUNDLE_BRANCH | _INTRAVENTRICULAR),
    (_BUNDLE_BRANCH, frozenset({"bundle branch block"})),
    (frozenset({"abnormal QRS"}), _ABNORMAL_QRS),
    (frozenset({"sinus rhythm"}), _OTHER_SINUS | _ATRIAL | {"supraventricular arrhythmia"}),
    (frozenset({"premature complex(es)", "extrasystoles"}), _VENTRICULAR | _ATRIAL | _SOME_EXTRASYSTOLES),
    (frozenset({"left axis deviation"}), frozenset({"left anterior fascicular block"})),
    (frozenset({"right axis deviation"}), frozenset({"left posterior fascicular block"})),
    # the diagnostic superclasses of PTB-XL
    (frozenset({"myocardial infarction of any site"}), frozenset({"Q waves present"})),
    (frozenset({"ST-T changes"}), _ST_T | _ST_T_CAUSES | _INJURIES | _SECONDARY_ST_T),
    (
        frozenset({"conduction disturbance"}),
        _ABNORMAL_QRS & (_BUNDLE_BRANCH | _INTRAVENTRICULAR | _FASCICULAR | _PRE_EXCITATION)
        | {"prolonged PR interval", "abnormal QRS"},
    ),
    (frozenset({"hypertrophy"}), _VOLTAGE | {"right ventricular hypertrophy"}),
)


@cache
def doubtful_given(label: str) -> frozenset[str]:
    """Return the findings that make the absence of a finding doubtful."""
    return _table().get(label, frozenset())


@cache
def _table() -> dict[str, frozenset[str]]:
    table = defaultdict(set)
    for findings, others in (*((family, family) for family in _FAMILIES), *_DOUBTFUL):
        for finding in findings:
            table[finding] |= others - {finding}
    return {finding: frozenset(others) for finding, others in table.items()}
