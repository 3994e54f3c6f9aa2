"""Turn a clinical table into a prepared cohort: check it, hold out patients, fit the transform."""

import argparse


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    from healthgym.data.request import PrepareRequest
    from healthgym.launch.executor import add_arguments, launch
    from healthgym.options import add_options

    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    add_options(parser, PrepareRequest)
    add_arguments(parser)
    options = vars(parser.parse_args(argv))
    on, dry_run = options.pop("on"), options.pop("dry_run")

    from healthgym.launch.jobs import PrepareJob
    from healthgym.launch.programs import ended

    def work() -> int:
        from healthgym.data.describe.command import described

        return launch(PrepareJob.of(**described(options)), on, dry_run)

    return ended(work, on == "debug")
