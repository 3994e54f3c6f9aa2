"""Make a synthetic cohort from a trained run. The same command starts and resumes it."""

import argparse


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    from healthgym.launch.executor import add_arguments, launch
    from healthgym.launch.jobs import SynthesizeJob
    from healthgym.launch.programs import ended
    from healthgym.options import add_options
    from healthgym.synthesis.request import SynthesisRequest

    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    add_options(parser, SynthesisRequest)
    add_arguments(parser)
    options = vars(parser.parse_args(argv))
    on, dry_run = options.pop("on"), options.pop("dry_run")
    return ended(lambda: launch(SynthesizeJob.of(**options), on, dry_run), on == "debug")
