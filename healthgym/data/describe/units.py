"""Units of clinical variables, where a name says them or name and values together leave one.

Ranges are of the median of a cohort, wide enough for sick adults and apart from those of the same variable in
another unit (Tietz Fundamentals of Clinical Chemistry and Molecular Diagnostics, reference intervals).
"""

import re

from healthgym.data.describe.names import parts_of, squeezed

_WRITTEN = {
    "%": "% percent pct",
    "mmHg": "mmhg",
    "beats/min": "bpm beatsmin beatspermin",
    "breaths/min": "breathsmin",
    "mg/dL": "mgdl",
    "mmol/L": "mmoll",
    "umol/L": "umoll",
    "g/dL": "gdl",
    "g/L": "gl",
    "IU/L": "iul",
    "U/L": "ul",
    "mL": "ml",
    "mL/h": "mlh mlhr",
    "mL/min": "mlmin",
    "kg": "kg",
    "cm": "cm",
    "mm": "mm",
    "kg/m2": "kgm2",
    "degC": "degc celsius",
    "degF": "degf fahrenheit",
    "cells/uL": "cellsul cellsmm3",
    "copies/mL": "copiesml",
    "10^9/L": "109l 10e9l",
    "kPa": "kpa",
    "ng/mL": "ngml",
    "ug/L": "ugl",
    "mEq/L": "meql",
    "s": "seconds sec",
    "year": "years year yrs",
    "day": "days",
    "hour": "hours",
}
_BY_WRITING = {word: unit for unit, words in _WRITTEN.items() for word in words.split()}
_AS_LAST_PART = {"kg", "cm", "mmhg", "bpm", "mgdl", "mmoll", "umoll", "celsius", "fahrenheit", "pct", "years"}

# (names, unit, lowest and highest median)
_CLINICAL: tuple[tuple[str, str, float, float], ...] = (
    ("hr heartrate pulse puls pulserate", "beats/min", 40, 180),
    ("sbp sysbp systolicbp systolic sysabp nisysabp", "mmHg", 80, 200),
    ("dbp diabp diasbp diastolicbp diastolic diasabp nidiasabp", "mmHg", 35, 120),
    ("map meanbp mbp meanarterialpressure nimap", "mmHg", 45, 140),
    ("rr resp resprate respiratoryrate", "breaths/min", 8, 45),
    ("spo2 sao2 o2sat oxygensaturation", "%", 50, 100),
    ("temp temperature tempc bodytemp bodytemperature", "degC", 33, 42),
    ("temp temperature tempf bodytemp bodytemperature", "degF", 92, 108),
    ("age alter ageyears ageatbaseline agebl anchorage", "year", 0, 120),
    ("bmi bodymassindex", "kg/m2", 12, 60),
    ("height groesse", "cm", 120, 210),
    ("cd4 cd4count", "cells/uL", 20, 1500),
    ("creatinine creat scr serumcreatinine", "mg/dL", 0.3, 5),
    ("creatinine creat scr serumcreatinine", "umol/L", 40, 400),
    ("glucose glu bloodglucose", "mg/dL", 50, 400),
    ("glucose glu bloodglucose", "mmol/L", 3, 22),
    ("hb hgb haemoglobin hemoglobin", "g/dL", 6, 19),
    ("hb hgb haemoglobin hemoglobin", "g/L", 60, 190),
    ("na sodium", "mmol/L", 120, 160),
    ("k potassium", "mmol/L", 2.5, 7),
    ("cl chloride", "mmol/L", 80, 130),
    ("hco3 bicarbonate", "mmol/L", 10, 40),
    ("lactate lactat", "mmol/L", 0.4, 12),
    ("platelets plt plateletcount plateletscount", "10^9/L", 30, 600),
    ("wbc wbccount whitebloodcells leukocytes", "10^9/L", 2, 40),
    ("bilirubin serbilir totalbili bili", "mg/dL", 0.2, 4),
    ("bilirubin totalbili bili", "umol/L", 5, 80),
    ("albumin", "g/dL", 1.5, 5.5),
    ("albumin", "g/L", 15, 55),
    ("bun", "mg/dL", 5, 90),
    ("paco2 pco2", "mmHg", 20, 80),
    ("pao2 po2", "mmHg", 40, 400),
    ("haematocrit hematocrit hct", "%", 15, 60),
    ("gfr egfr", "mL/min/1.73m2", 5, 150),
    ("alt sgpt ast sgot", "IU/L", 5, 500),
)


def unit_of(name: str, median: float) -> tuple[str, str]:
    """Return the unit of a real variable and the evidence for it; two empty strings if there is none."""
    written = re.search(r"[(\[]\s*([^)\]]+?)\s*[)\]]\s*$", name)
    if written:
        inside = written[1]
        known = _BY_WRITING.get("%" if inside == "%" else squeezed(inside.replace("^", "")))
        if known:
            return known, f"written in the name as '{inside}'"
    parts = parts_of(name)
    for count in (1, 2):
        last = "".join(parts[-count:])
        if len(parts) > count and last in _AS_LAST_PART:
            return _BY_WRITING[last], f"the name ends in '{last}'"
    word = squeezed(re.sub(r"[(\[].*", "", name))
    fits = [unit for names, unit, low, high in _CLINICAL if word in names.split() and low <= median <= high]
    if len(fits) == 1:
        return fits[0], f"by its name and a median of {median:g}"
    return "", ""
