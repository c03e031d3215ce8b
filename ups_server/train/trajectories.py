"""What an adaptation learns from and is judged by: trajectories of one file, or of a second one that is held out."""

from dataclasses import dataclass
from typing import Any

from ups_server.data.agreement import check_agreement, check_disjoint
from ups_server.data.rows import summary
from ups_server.data.splits import FewShotSplit, few_shot_split, held_out_split
from ups_server.data.store import Store


@dataclass(frozen=True)
class FewShotData:
    """The trajectories of an adaptation.

    Attributes:
        training: the K trajectories are of this store; without a `validation` store, validation and test are too.
        file: what reports call it.
        validation: a quarter of its trajectories chooses the checkpoint, the others are the test.
        validation_file: what reports call that one.
    """

    training: Store
    file: str
    validation: Store | None = None
    validation_file: str | None = None

    @property
    def held_out(self) -> Store:
        """The store that rows of validation and test belong to."""
        return self.training if self.validation is None else self.validation

    @property
    def scored_file(self) -> str:
        """What scores call the data of the test."""
        return self.validation_file or self.file

    def split(self, k: int) -> FewShotSplit:
        """Raises UserError ``too_few_trajectories``, ``validation_file_mismatch``, ``validation_file_overlaps``."""
        if self.validation is None:
            return few_shot_split(len(self.training), k)
        check_agreement(self.training, self.validation)
        split = held_out_split(len(self.training), k, len(self.validation))
        check_disjoint(self.training, split.training, self.validation)
        return split

    def fingerprints(self) -> dict[str, str]:
        """Of the data, for what is told of the model's origin."""
        found = {"data_fingerprint": self.training.manifest.fingerprint}
        if self.validation is not None:
            found["validation_fingerprint"] = self.validation.manifest.fingerprint
        return found

    def report(self, split: FewShotSplit) -> dict[str, Any]:
        """What a report says of the files: the numbers of the rows trained on, and of those left out, with reasons."""
        own = self.training.row_numbers
        found: dict[str, Any] = {
            "training_rows": own.numbers[split.training].tolist(),
            "left_out": summary(own.left_out),
        }
        if self.validation is not None:
            found["validation_file"] = self.validation_file
            found["validation_left_out"] = summary(self.validation.row_numbers.left_out)
        return found
