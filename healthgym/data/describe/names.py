"""Hints in the names of columns: patients, times, outcomes and units."""

import re
import unicodedata

_PATIENT = [
    "patientid",
    "patient",
    "patid",
    "ptid",
    "pat",
    "patientnr",
    "patientno",
    "patientnumber",
    "patientnummer",
    "patnr",
    "idpatient",
    "idpat",
    "subjectid",
    "usubjid",
    "subjid",
    "subject",
    "subj",
    "participantid",
    "participant",
    "personid",
    "person",
    "individual",
    "studyid",
    "recordid",
    "mrn",
    "pid",
    "sid",
    "caseid",
    "case",
    "fallnummer",
    "fallnr",
    "id",
    "num",
    "number",
    "nr",
    "rat",
    "animal",
    "stayid",
    "icustayid",
    "hadmid",
    "admissionid",
    "encounterid",
    "episodeid",
]
_TIME = [
    "timestep",
    "time",
    "charttime",
    "timepoint",
    "obstime",
    "t",
    "datetime",
    "timestamp",
    "date",
    "visitdate",
    "chartdate",
    "hour",
    "hours",
    "day",
    "days",
    "studyday",
    "ady",
    "week",
    "weeks",
    "month",
    "months",
    "year",
    "years",
    "visittime",
    "datum",
    "zeit",
    "zeitpunkt",
    "tag",
    "monat",
    "woche",
    "jahr",
    "adt",
    "visit",
    "visitnum",
    "visitno",
    "visitnumber",
    "visite",
    "wave",
    "occasion",
    "period",
    "cycle",
    "age",
    "start",
    "tstart",
    "seq",
]
_UNITS = {
    "second": "second seconds sec secs sek s",
    "minute": "minute minutes min mins",
    "hour": "hour hours hr hrs h stunde stunden",
    "day": "day days d tag tage studyday ady",
    "week": "week weeks wk wks woche wochen",
    "month": "month months mon mo monat monate monats obsmonth",
    "year": "year years yr yrs jahr jahre",
    "visit": "visit visitnum visitno visitnumber visite wave occasion",
}
_UNIT_OF = {word: unit for unit, words in _UNITS.items() for word in words.split()}
_EVENT = [
    "death",
    "dead",
    "died",
    "deceased",
    "status",
    "event",
    "mortality",
    "outcome",
    "delta",
    "fustat",
    "expired",
    "exitus",
    "verstorben",
    "censored",
    "censor",
    "cens",
    "survived",
    "hospitaldeath",
    "inhospitaldeath",
    "deathevent",
    "eventtype",
]
_FOLLOW = [
    "futime",
    "followup",
    "followuptime",
    "fuptime",
    "fuyrs",
    "fuyears",
    "fudays",
    "time",
    "survtime",
    "survivaltime",
    "survival",
    "ostime",
    "os",
    "timetoevent",
    "tte",
    "stime",
    "eventtime",
    "deathtime",
    "timetodeath",
    "daystodeath",
    "years",
    "days",
    "months",
    "fup",
    "surv",
    "lastfollowup",
    "endtime",
    "exittime",
    "studytime",
    "lengthofstay",
    "los",
]


def squeezed(name: str) -> str:
    """Return a name's letters and digits, without accents and in small letters."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]", "", plain.lower())


def parts_of(name: str) -> list[str]:
    """Return a name's words: those between spaces, underscores, brackets, and changes of case."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    spaced = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", plain)
    return [part for part in re.split(r"[^a-z0-9]+", spaced.lower()) if part]


def rank_as_patient(name: str) -> float:
    """Return how much a name resembles that of a patient's identifier, from 0 to 1."""
    return _rank(name, _PATIENT, ("patient", "subject", "subj", "particip"))


def rank_as_time(name: str) -> float:
    """Return how much a name resembles that of a time, from 0 to 1."""
    return _rank(name, _TIME, ("time", "date", "datum", "visit", "hour", "day", "week", "month", "year"))


def rank_as_event(name: str) -> float:
    """Return how much a name resembles that of an outcome such as death, from 0 to 1."""
    return _rank(name, _EVENT, ("death", "died", "mortal", "status", "event"))


def rank_as_follow_up(name: str) -> float:
    """Return how much a name resembles that of a time of follow-up, from 0 to 1."""
    return _rank(name, _FOLLOW, ("follow", "surv", "futime", "timeto", "lengthofstay"))


def _rank(name: str, known: list[str], within: tuple[str, ...]) -> float:
    word = squeezed(name)
    if word in known:
        return 1.0 - 0.6 * known.index(word) / len(known)
    parts = parts_of(name)
    inside = [known.index(part) for part in parts if part in known and len(part) > 1]
    if inside and len(parts) > 1:
        return 0.4 - 0.1 * min(inside) / len(known)
    return 0.3 if any(part in word for part in within) else 0.0


def unit_of_time(name: str) -> str:
    """Return the unit of time that a name has in it, e.g. "hour" of "icu_hour"; empty if none or several."""
    found = {_UNIT_OF[part] for part in (squeezed(name), *parts_of(name)) if part in _UNIT_OF}
    return found.pop() if len(found) == 1 else ""


def is_identifier(name: str) -> bool:
    """Tell whether a name is that of an identifier, of a patient or of anything else."""
    parts = parts_of(name)
    last = parts[-1] if parts else ""
    return last in {"id", "ids", "nr", "no", "number", "mrn", "uuid", "key", "name"} or (
        squeezed(name).endswith("id") and rank_as_patient(name) > 0
    )


def is_row_counter(name: str) -> bool:
    """Tell whether a name is one that programs give to a column of row names."""
    return squeezed(name) in {"", "x", "rownames", "rownumber", "rowid", "row", "index", "unnamed0", "obs"}
