"""What a run trains on, in which order and for how many steps, and its validation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from healthgym.config import RunConfig
from healthgym.data.sequences import Sequences
from healthgym.errors import ConfigError
from healthgym.systems.base import System
from healthgym.training.curriculum import Curriculum
from healthgym.training.monitoring.sampled import SampledValidation
from healthgym.training.monitoring.validation import Validation, split
from healthgym.training.pace import Pace
from healthgym.training.whole import WholeCurriculum, default_epochs
from healthgym.words import counted

_EPOCHS = 100  # default of systems that train in stages
_SHARE_OF_STEPS = 0.95  # of a time limit; the rest is for validation


@dataclass(frozen=True)
class Course:
    """What a run trains on, in which order and for how many steps, and its validation.

    Args:
        patients: to train on.
        curriculum: the order of batches.
        pace: the number of steps.
        validation: on other patients; None if the system is not validated.
    """

    patients: Sequences
    curriculum: Curriculum
    pace: Pace
    validation: Validation | None

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Load the planned number of steps and the state of validation from a checkpoint."""
        self.pace.load_state(state)
        if self.validation is not None:
            self.validation.load_state(state)

    def description(self) -> str:
        """Return a description of one or two lines."""
        curriculum, validation = self.curriculum, self.validation
        if isinstance(curriculum, WholeCurriculum):
            count = curriculum.stages[0].num_patients
            said = f"whole patients: {count:,} of up to {curriculum.max_length:,} timesteps"
        else:
            stages = ", ".join(f"{stage.length} ({stage.num_patients:,})" for stage in curriculum.stages)
            said = f"stages by length (patients): {stages}"
        if validation is None:
            return said
        return f"{said}\n{validation.description()}"


def set_course(patients: Sequences, system: System, config: RunConfig) -> Course:
    """Return the course of a run, from the settings and the system's class.

    Args:
        patients: all training patients.
        system: to be trained.
        config: the run's settings.

    Raises:
        ConfigError: there are too few patients, or the settings do not fit the system.
    """
    learned, held = _divided(patients, system, config)
    curriculum = _curriculum(learned, system, config)
    validation = _validation(held, system, curriculum, config) if config.training.validation else None
    share = _SHARE_OF_STEPS if validation else 1.0
    pace = Pace(curriculum, _epochs(config, curriculum, system), config.training.minutes, share)
    return Course(learned, curriculum, pace, validation)


def _divided(patients: Sequences, system: System, config: RunConfig) -> tuple[Sequences, Sequences]:
    """Return the patients to train on, and those to validate on, who may be the same."""
    share, on = config.training.validation, config.training.validate_on
    if on == "training" and system.validates:
        raise ConfigError(
            "training.validate_on is training, and this system is validated by how well it predicts patients "
            "that it does not learn from. Leave that setting out, or set it to held_out."
        )
    if not share or (not system.validates and on != "held_out"):
        return patients, patients
    learned_N, held_N = split(patients.num_patients, share, config.training.seed)
    if not len(held_N):
        raise ConfigError(
            f"{counted(patients.num_patients, 'training patient')}: too few to set some aside for "
            f"validation. Prepare more, or set training.validation=0."
        )
    return patients.only(learned_N), patients.only(held_N)


def _curriculum(patients: Sequences, system: System, config: RunConfig) -> Curriculum:
    if system.whole_patients:
        if config.curriculum.lengths not in ("auto", "whole"):
            raise ConfigError(
                f"curriculum.lengths is {config.curriculum.lengths}, and this system learns from whole "
                f"patients, their number of timesteps too. Leave that setting out, or set it to auto."
            )
        on_cuda = system.device.type == "cuda"
        return WholeCurriculum(config.curriculum, patients, config.training.seed, fixed_length=on_cuda)
    return Curriculum(config.curriculum, patients, config.training.seed)


def _epochs(config: RunConfig, curriculum: Curriculum, system: System) -> int:
    if config.training.epochs != "auto":
        return config.training.epochs
    return default_epochs(curriculum.stages[0].num_patients) if system.whole_patients else _EPOCHS


def _validation(patients: Sequences, system: System, curriculum: Curriculum, config: RunConfig) -> Validation:
    training = config.training
    if not system.validates:
        return SampledValidation(
            patients,
            system,
            curriculum.batch_size,
            curriculum.steps_per_epoch,
            curriculum.max_length,
            training.seed,
            training.validate_every_steps,
            training.patience,
            training.validate_on == "held_out",
        )
    fixed = isinstance(curriculum, WholeCurriculum) and curriculum.fixed_length
    return Validation(
        patients,
        system,
        training.micro_batch_size or curriculum.batch_size,
        curriculum.steps_per_epoch,
        training.validate_every_steps,
        training.patience,
        max(patients.max_length, curriculum.max_length) if fixed else None,
    )
