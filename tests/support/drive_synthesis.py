"""Make a cohort of the fake system in a process of its own, for tests that kill or measure it.

python tests/support/drive_synthesis.py '{"checkpoint": ..., "out": ..., "patients": ...}'
"""

import resource
import sys

from fake_system import open_fake

from healthgym.errors import HealthgymError
from healthgym.synthesis.cohort import SynthesisRequest, synthesize


def main() -> int:
    try:
        outcome = synthesize(SynthesisRequest.model_validate_json(sys.argv[1]), open_fake)
    except HealthgymError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(f"{outcome}\npeak KiB: {peaks[0]} {peaks[1]}", flush=True)
    return outcome.exit_status


if __name__ == "__main__":
    sys.exit(main())
