"""Train a system in a run folder. The same command starts a run and goes on with it."""

import argparse
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Run the program and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path, help="settings, e.g. configs/v2.yaml")
    parser.add_argument("--run-dir", type=Path, required=True, help="where checkpoints and metrics go")
    parser.add_argument("--data", type=Path, help="the prepared cohort, if not the one in the settings")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting: training.epochs=2"
    )
    from healthgym.launch.executor import add_arguments, launch

    add_arguments(parser)
    options = parser.parse_args(argv)

    from healthgym.programs import ended

    def work() -> int:
        from healthgym.config import RunConfig
        from healthgym.launch.jobs import TrainJob
        from healthgym.strict import load

        config = load(RunConfig, options.config, options.set)
        if options.data:
            config = config.model_copy(update={"data": options.data})
        return launch(TrainJob.of(options.run_dir, config), options.on, options.dry_run)

    return ended(work, options.on == "debug")


if __name__ == "__main__":
    sys.exit(main())
