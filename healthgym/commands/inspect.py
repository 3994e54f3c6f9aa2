"""Print the content of a checkpoint: progress, settings, arrays; or the shape of each stage of v3."""

from healthgym import shipped
from healthgym.commands.asking import answer
from healthgym.launch.requests import InspectRequest


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    return answer(InspectRequest, _inspect, str(__doc__), argv, prog)


def _inspect(asked: InspectRequest) -> int:
    from healthgym.storage.checkpoint import describe
    from healthgym.training.shapes import is_settings, shape_contract

    if asked.shapes or is_settings(asked.path):
        schema = asked.schema_path and shipped.schema(asked.schema_path)
        print(shape_contract(asked.path, schema, asked.length))
    else:
        print(describe(asked.path))
    return 0
