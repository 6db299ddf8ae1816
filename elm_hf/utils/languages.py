"""Detects the language of an ECG report (German, Swedish or English) by its words."""

import re


ENGLISH = "en"
# Words of each language in ECG reports, without words that several languages share (normal, block, sinus, ST).
_WORDS = {
    "de": (
        "und oder nicht der die das den dem des ein eine bei mit ohne ist sind sonst auf im vom zum zu am an nach als auch "
        "lagetyp linkstyp rechtstyp steiltyp indifferenztyp ekg normales überdrehter verdacht wahrscheinlich möglich keine "
        "kein periphere niederspannung schenkelblock rechtsschenkelblock linksschenkelblock vorhofflimmern vorhofflattern "
        "hypertrophie linkshypertrophie infarkt hinterwandinfarkt vorderwandinfarkt septumdefekt alter myokardschaden "
        "erregungsrückbildung extrasystolen vereinzelte ventrikuläre supraventrikuläre sinusbradykardie sinustachykardie "
        "t-negativierung st-senkung st-hebung linksventrikuläre überleitungsstörung pathologisches auffälliges unauffällig"
    ),
    "sv": (
        "och eller ej inte med utan för av på till är det som en ett hos normalt ekg sinusrytm rytm förmaksflimmer "
        "förmaksfladder grenblock skänkelblock vänster höger vänsterkammar högerkammar hypertrofi ospecifik ospecifika "
        "förändringar möjlig möjligen sannolik sannolikt troligen äldre tidigare hjärtinfarkt inferiör framvägg elaxel "
        "vänsterställd extraslag låg amplitud sinusbradykardi sinustakykardi sinusarytmi patologiskt trol st-sänkning"
    ),
    "en": (
        "and or not no the a an of in is are with without otherwise by this may be to from due most likely probable probably "
        "possible consider rhythm ecg axis left right deviation bundle branch wave waves flattening inversion inferior "
        "anterior lateral old infarction ischemia ischaemia bradycardia tachycardia arrhythmia atrial fibrillation flutter "
        "ventricular complexes complex premature hypertrophy changes change minor definite pathology abnormal borderline low "
        "limb lead leads voltage prolonged interval degree heart rate wide narrow drift noise unconfirmed report "
        "sinus-rhythm st-elevation st-depression"
    ),
}
_KNOWN = {language: set(words.split()) for language, words in _WORDS.items()}
_ENDINGS = {
    "de": re.compile(
        r"(rhythmus|typ|ung|ungen|isch|ische|ischer|isches|ich|störung|flimmern|hebung|senkung|infarkt)$"
    ),
    "sv": re.compile(r"(rytm|rytmi|ning|ningar|iskt|isk|liga|förändring|förändringar|flimmer|blockering)$"),
    "en": re.compile(r"(tion|tions|ing|ity|ular|oid|ly|ic|ical|ed)$"),
}
_LETTERS = {"de": "äöüß", "sv": "åäö", "en": ""}


def language_of(report: str) -> str | None:
    """
    Detects the language of an ECG report: `"de"`, `"sv"` or `"en"`; None if it has no known word, ending or letter.

    A known word counts two; an ending or a letter of the language counts one. The language with the highest count
    wins, and English loses a tie.
    """
    words = re.findall(r"[^\W\d_]+(?:-[^\W\d_]+)*", report.lower())
    counts = {}
    for language, known in _KNOWN.items():
        counts[language] = sum(
            2 * (word in known) + bool(_ENDINGS[language].search(word)) + any(c in _LETTERS[language] for c in word)
            for word in words
        )
    best = max(counts.values())
    return None if best == 0 else next(language for language, count in counts.items() if count == best)
