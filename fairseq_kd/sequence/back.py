"""Back-translation: the teacher translates text of the target language, and its answers become the sources.

Source: Sennrich et al. 2016, "Improving Neural Machine Translation Models with Monolingual Data". The tag at the
beginning of each source: Caswell et al. 2019, "Tagged Back-Translation".
"""

from dataclasses import dataclass

from fairseq_kd.artifacts.manifest import read_manifest
from fairseq_kd.core.errors import KDError


@dataclass(frozen=True)
class Back:
    """tag: a reserved token of the source dictionary that begins each source, None for no tag."""

    tag: str | None = None

    def check(self, like) -> None:
        """Raises KDError when the data-bin has not reserved the tag."""
        reserved = (read_manifest(like) or {}).get("reserved", [])
        if self.tag is not None and self.tag not in reserved:
            has = f"it has reserved {' '.join(reserved)}" if reserved else "it has reserved none"
            raise KDError(
                f"--tag {self.tag} is not a reserved token of {like} ({has}), so the subwords or the noise could cut "
                "it in two: `fairseq-kd prepare --reserve 8` reserves tokens"
            )

    def as_dict(self) -> dict:
        """For the manifest."""
        return {"tag": self.tag}


def check_recorded(out, recorded: dict | None, back: Back | None) -> None:
    """Raises KDError when `out` was made, or begun, with another --back or --tag. recorded: its request, or None."""
    wanted = None if back is None else back.as_dict()
    if recorded is not None and recorded.get("back") != wanted:
        raise KDError(
            f"{out} was made with back-translation {recorded.get('back')}, this command has {wanted}: one decoded "
            "data-bin is made from one request. Give the same options as before, or choose another --out"
        )


def check_direction(languages: tuple[str, str], pair: tuple[str, str], back: Back | None) -> None:
    """Raises KDError for a back-translation by a teacher of the wrong direction.

    languages: (source, target) of the teacher. pair: of the data-bin.
    """
    if back is not None and languages != pair[::-1]:
        raise KDError(
            f"--back translates the target language of the data-bin, so it needs a teacher of {pair[1]}-{pair[0]}; "
            f"this teacher translates {'-'.join(languages)}: give the reverse teacher, or leave --back out"
        )
