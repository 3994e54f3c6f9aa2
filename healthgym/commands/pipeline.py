"""Submit prepare, train, synthesize and evaluate at once, each after the previous one.

healthgym pipeline slurm/pipeline.yaml      the same command resumes the unfinished stages
"""

from healthgym.commands.asking import answer
from healthgym.launch.requests import PipelineRequest


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    return answer(PipelineRequest, _pipeline, str(__doc__), argv, prog)


def _pipeline(asked: PipelineRequest) -> int:
    from healthgym.launch.pipeline import show_pipeline, submit_pipeline

    if asked.dry_run:
        print(show_pipeline(asked.pipeline))
    else:
        submit_pipeline(asked.pipeline)
    return 0
