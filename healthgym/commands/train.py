"""Train a system in a run folder. The same command starts and resumes a run."""

import argparse


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    from healthgym.launch.executor import add_arguments, launch
    from healthgym.launch.requests import TrainRequest
    from healthgym.options import add_options

    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    add_options(parser, TrainRequest)
    add_arguments(parser)
    options = vars(parser.parse_args(argv))
    on, dry_run = options.pop("on"), options.pop("dry_run")

    from healthgym.launch.programs import ended

    def work() -> int:
        from healthgym.launch.jobs import TrainJob
        from healthgym.strict import parse

        request = parse(TrainRequest, options, "the command line")
        return launch(TrainJob.asked(request), on, dry_run)

    return ended(work, on == "debug")
