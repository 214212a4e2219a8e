"""Schedules of the learning rate that several trainings in turn can follow as if they were one."""

from fairseq_kd.core.errors import KDError

BY_UPDATES = ("fixed", "inverse_sqrt", "polynomial_decay", "cosine", "tri_stage", "triangular", "step")


def check_by_updates(where: str, options: dict, why: str, schedules=BY_UPDATES) -> str:
    """The schedule of a training, which depends on the number of updates alone.

    where: file and section, for the message. why: what is wrong with epochs. schedules: those that are accepted.
    Raises KDError for another schedule, and for a learning rate by epochs.
    """
    schedule = options.get("lr-scheduler", "fixed")
    if schedule not in schedules:
        raise KDError(
            f"{where}: lr-scheduler {schedule} may depend on epochs, {why}; give {', '.join(schedules[:-1])} or "
            f"{schedules[-1]}"
        )
    if "force-anneal" in options or any(sign in str(options.get("lr", "")) for sign in ",["):
        name = "force-anneal" if "force-anneal" in options else f"lr {options['lr']}"
        raise KDError(
            f"{where}: {name} sets the learning rate by epochs, {why}; give one lr, and a schedule by updates"
        )
    return schedule
