"""Train a system in a run folder. The same command starts and resumes a run."""

import argparse
from pathlib import Path


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument("config", type=Path, help="settings: a YAML file, or the name of a preset, e.g. ar")
    parser.add_argument(
        "--run-dir", type=Path, help="where checkpoints and metrics go (runs/NAME of the settings)"
    )
    parser.add_argument("--data", type=Path, help="the prepared cohort, if not the one in the settings")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting: training.epochs=2"
    )
    from healthgym.launch.executor import add_arguments, launch

    add_arguments(parser)
    options = parser.parse_args(argv)

    from healthgym.programs import ended

    def work() -> int:
        from healthgym import shipped
        from healthgym.config import RunConfig
        from healthgym.launch.jobs import TrainJob
        from healthgym.strict import load

        settings = shipped.settings(options.config)
        config = load(RunConfig, settings, options.set)
        if options.data:
            config = config.model_copy(update={"data": options.data})
        return launch(
            TrainJob.of(options.run_dir or Path("runs") / settings.stem, config), options.on, options.dry_run
        )

    return ended(work, options.on == "debug")
