"""Page one of a report: what a board must know, in sentences, and a few findings of every section."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from healthgym.evaluation.concerns import shared_concern
from healthgym.evaluation.result import Result, Section, Verdict, show
from healthgym.evaluation.statistics.findings import CLEAR, LOST

_FINDINGS = 3
_BY_GROUP = "joint.by_group"
_ORDER = (Verdict.FAIL, Verdict.CAUTION, Verdict.PASS, Verdict.NOT_JUDGED, Verdict.SHOWN)
_USES = {
    "validity": "testing software on tables of this form",
    "marginals": "describing single variables: means, ranges, shares",
    "joint": "studying relations between variables, in all patients or in groups",
    "dynamics": "studying courses over time, and what precedes what",
    "follow_up": "studying how long patients are followed, and events",
    "collapse": "counting kinds of patients and studying rare ones",
    "discriminability": "standing in for real patients in teaching or simulation",
    "utility": "training models that are then used on real patients",
}
_WORDS = {
    Verdict.PASS: "May be used for",
    Verdict.CAUTION: "With care, and with the findings in mind, for",
    Verdict.FAIL: "Not for",
    Verdict.NOT_JUDGED: "Not shown to be fit for",
}
_SHORT = {
    "validity": "testing software",
    "marginals": "single variables",
    "joint": "relations between variables",
    "dynamics": "courses over time",
    "follow_up": "follow-up and events",
    "collapse": "kinds of patients",
    "discriminability": "teaching and simulation",
    "utility": "training models",
}
# What guessing reaches in each attack, and the sentence on what the attack does.
_PAIRS = (
    "Shown a training patient and a patient outside the training data, the strongest attack picks the right "
    "one {0:.0f} times in 100, where guessing does 50 times"
)
_ATTACKS = {
    "privacy.membership_auc": (0.5, _PAIRS),
    "privacy.membership_shadow": (0.5, _PAIRS),
    "privacy.membership_tpr": (
        0.01,
        "The strongest attack finds {0:.1f}% of the training patients while it wrongly accuses 1% of "
        "others, where guessing finds 1%",
    ),
}
_ATTACK_ORDER = (Verdict.FAIL, Verdict.CAUTION, Verdict.NOT_JUDGED, Verdict.PASS, Verdict.SHOWN)
_ATTACK_WORDS = {
    Verdict.FAIL: "fails",
    Verdict.CAUTION: "caution",
    Verdict.NOT_JUDGED: "inconclusive",
    Verdict.PASS: "passes",
    Verdict.SHOWN: "shown",
}
_COPIES = {
    "privacy.copies": "equal a training patient",
    "privacy.near_copies": "nearly equal one",
    "privacy.courses": "repeat a stretch of one's course",
}
_ADVICE = {
    Verdict.PASS: "No attack that was tried speaks against sharing the cohort.",
    Verdict.CAUTION: "Read the privacy findings before the cohort is shared.",
    Verdict.FAIL: "It exposes patients of the training data.",
    Verdict.NOT_JUDGED: "This report cannot decide whether the cohort may be shared: see Privacy.",
}
_WITHIN = "Only within the environment that holds the training data:"
SMALL = 10
_EVENTS = "follow_up.events"
_COLUMNS = (
    "section", "key", "title", "verdict", "value", "low_95", "high_95", "noise_floor", "noise_limit",
    "independent", "threshold", "finding", "note",
)  # fmt: skip
LEAVES = (
    f"Nothing on this page or in report.json describes fewer than {SMALL} real patients, so this page may be "
    "shared outside the environment that holds the data."
)


@dataclass(frozen=True)
class Use:
    """What the cohort may be used for, by the verdict of a section; `because` is its worst finding."""

    verdict: Verdict
    words: str
    purpose: str
    because: str = ""


@dataclass(frozen=True)
class Summary:
    """What stands on page one.

    Args:
        release: whether the cohort may be shared, and for what; the first line of the page.
        colour: of that line: passing only where no use is limited.
        advice: what to do with the cohort, in a sentence.
        within: where what is said of uses holds; empty if everywhere.
        uses: what it may be used for and what not.
        privacy: sentences.
        concern: which variable or class most metrics that do not pass are about; empty if there is none.
        leaves: whether the page itself may be shared.
    """

    release: str
    colour: Verdict
    advice: str
    within: str
    uses: Sequence[Use]
    privacy: Sequence[str]
    concern: str
    leaves: str


def summarise(sections: Sequence[Section], resembles_nobody: str = "") -> Summary:
    """Put a report in the sentences of page one.

    Args:
        sections: of the report.
        resembles_nobody: why failed attacks are no evidence of privacy; empty if they are.
    """
    by_key = {section.key: section for section in sections}
    privacy = by_key.get("privacy")
    speaking = [section for section in sections if _speaks(section)]
    verdicts = {section.key: section.verdict for section in speaking}
    uses = uses_by_verdict(verdicts, {section.key: _because(section) for section in speaking})
    given = privacy.verdict if privacy else Verdict.NOT_JUDGED
    release, colour = _release(given, verdicts)
    return Summary(
        release,
        colour,
        _ADVICE.get(given, "") if privacy else "",
        _WITHIN if given in (Verdict.FAIL, Verdict.NOT_JUDGED) else "",
        uses,
        _privacy(privacy, resembles_nobody) if privacy else [],
        shared_concern(sections),
        LEAVES,
    )


def _release(privacy: Verdict, verdicts: Mapping[str, Verdict]) -> tuple[str, Verdict]:
    """Return whether a cohort may be shared and for what, and the verdict whose colour that has."""
    if privacy is Verdict.FAIL:
        return "Release: no. Do not share the cohort.", Verdict.FAIL
    if privacy is not Verdict.PASS and privacy is not Verdict.CAUTION:
        return "Release: undecided.", Verdict.NOT_JUDGED
    named = {
        verdict: ", ".join(short for key, short in _SHORT.items() if verdicts.get(key) is verdict)
        for verdict in _WORDS
    }
    opening = {
        Verdict.PASS: "for",
        Verdict.CAUTION: "with care for",
        Verdict.FAIL: "not for",
        Verdict.NOT_JUDGED: "not shown to be fit for",
    }
    said = "; ".join(f"{opening[verdict]} {names}" for verdict, names in named.items() if names)
    usable = named[Verdict.PASS] or named[Verdict.CAUTION]
    if not usable:
        return f"Release: no. It is not fit for any use: {said}.", Verdict.FAIL
    limited = any(named[verdict] for verdict in _WORDS if verdict is not Verdict.PASS)
    if privacy is Verdict.CAUTION:
        return f"Release: only after a review of its privacy; then {said}.", Verdict.CAUTION
    return f"Release: yes, {said}.", Verdict.CAUTION if limited else Verdict.PASS


def uses_by_verdict(verdicts: Mapping[str, Verdict], because: Mapping[str, str] | None = None) -> list[Use]:
    """Return what a cohort may be used for, and what not, by the verdicts of sections; the best first."""
    return [
        Use(verdict, words, _USES[key], (because or {}).get(key, ""))
        for verdict, words in _WORDS.items()
        for key, found in verdicts.items()
        if key in _USES and found is verdict
    ]


def _because(section: Section) -> str:
    """Return the worst finding of a section that does not pass."""
    if section.verdict in (Verdict.PASS, Verdict.SHOWN):
        return ""
    return next((f"{result.title}: {said}" for result, said in findings(section)), "")


def _speaks(section: Section) -> bool:
    """Return whether a section says what its use needs: without events, follow-up is no more than lengths."""
    return section.key != "follow_up" or any(each.key == _EVENTS for each in section.results)


def findings(section: Section) -> list[tuple[Result, str]]:
    """Return up to three findings of a section, each a sentence; the worst first.

    Where the section is not judged, the reason comes before all others.
    """
    unjudged = [
        result for result in section.results if result.verdict is Verdict.NOT_JUDGED and result.reason
    ]
    why = [each for each in unjudged if each.key in section.essential] or unjudged
    first = [(result, result.reason) for result in why[:1]] if section.verdict is Verdict.NOT_JUDGED else []
    taken = {result.key for result, _ in first}
    said = [(result, _said(result)) for result in section.results if result.key not in taken]
    worst = sorted(said, key=lambda pair: _ORDER.index(pair[0].verdict))
    found = first + [(result, f"{text}.") for result, text in worst if text]
    # What is lost in one group only is seen nowhere else.
    lost = [pair for pair in found[_FINDINGS:] if _lost_in_a_group(pair[0])]
    return found[: _FINDINGS - len(lost)] + lost


def _lost_in_a_group(result: Result) -> bool:
    """Return whether a clear relation within a group is lost by more than half."""
    if result.key != _BY_GROUP or result.verdict not in (Verdict.FAIL, Verdict.CAUTION):
        return False
    sides = [(r.real, r.synthetic) for r in result.rows if r.real is not None and r.synthetic is not None]
    return any(abs(real) >= CLEAR and abs(made - real) > LOST * abs(real) for real, made in sides)


def _said(result: Result) -> str:
    """Return what was found; of a metric that does not pass, at least its value, interval and threshold."""
    if result.finding or result.verdict not in (Verdict.FAIL, Verdict.CAUTION):
        return result.finding
    ends = [show(end, result.style) for end in result.interval or ()]
    interval = f", 95% interval {' to '.join(ends)}" if ends else ""
    return f"{show(result.value, result.style)}{interval} ({result.limit})"


def table(sections: Sequence[Section]) -> str:
    """Return every metric as CSV: one line each, numbers in full."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for section in sections:
        for result in section.results:
            content = result.to_json()
            low, high = result.interval or (None, None)
            kept = {name: content[name] for name in _COLUMNS if name in content}
            writer.writerow({"section": section.title, "low_95": low, "high_95": high} | kept)
    return text.getvalue()


def small_groups(counts: Mapping[str, Sequence[int]]) -> str:
    """Say how many groups of static variables hold fewer than ten real patients, without their numbers."""
    found = {name: sum(0 < count < SMALL for count in cells) for name, cells in counts.items()}
    some = [f"{name} ({number})" for name, number in found.items() if number]
    if not some:
        return (
            f"No class of a static variable, and no combination of classes of two, has fewer than {SMALL} "
            "real patients."
        )
    return (
        f"Groups of fewer than {SMALL} real patients exist, whose members are more easily recognised: "
        f"{', '.join(some)}. Their numbers are not shown."
    )


def _privacy(section: Section, resembles_nobody: str = "") -> list[str]:
    """Say what attacks found, what is copied, and what is guaranteed.

    If the cohort resembles no real patients, only failing attacks are reported.
    """
    results = {result.key: result for result in section.results if result.value is not None}
    if resembles_nobody:
        found = (Verdict.FAIL, Verdict.CAUTION)
        results = {key: result for key, result in results.items() if result.verdict in found}
    tried = [results[key] for key in _ATTACKS if key in results]
    sentences = [resembles_nobody] if resembles_nobody else []
    if tried:
        sentences.append(_strongest(tried))
    elif not resembles_nobody:
        sentences.append(
            "No membership inference attack could be made: this needs real patients held out of training."
        )
    said = [
        f"{results[key].value:,.0f} {words}{_by_chance(results[key])}"
        for key, words in _COPIES.items()
        if key in results
    ]
    if said or not resembles_nobody:
        copies = f"Of the synthetic patients {', '.join(said)}." if said else "Copies could not be counted."
        copied = any(results[key].verdict is Verdict.FAIL for key in _COPIES if key in results)
        sentences.insert(0 if copied else len(sentences), copies)
    sentences.append(
        "There is no formal guarantee such as differential privacy: another attack may succeed where these "
        "fail."
    )
    return sentences


def _strongest(tried: Sequence[Result]) -> str:
    """Say what the attack of the worst verdict finds; of several, the one furthest above guessing."""

    def strength(result: Result) -> tuple[int, float]:
        return -_ATTACK_ORDER.index(result.verdict), (result.value or 0.0) - _ATTACKS[result.key][0]

    strongest = max(tried, key=strength)
    said = _ATTACKS[strongest.key][1].format(100 * (strongest.value or 0.0))
    return f"{said} ({strongest.title.lower()}: {_ATTACK_WORDS[strongest.verdict]})."


def _by_chance(result: Result) -> str:
    """Say where some copies are no more than chance makes."""
    return (
        " (as many as real patients do by chance)" if result.value and result.verdict is Verdict.PASS else ""
    )
