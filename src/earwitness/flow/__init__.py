"""Each method from top to bottom, in the order in which a person would tell it: the data, the training, the exams."""

from earwitness.flow.data import (
    Labelled,
    Lessons,
    calibrate_checker,
    choosing_labels,
    count_votes,
    describe_clips,
    lessons,
    sample_traces,
    select_lessons,
    verify_traces,
    write_drafts,
)
from earwitness.flow.exams import sit_exam
from earwitness.flow.training import Ends, Material, material, train_arms, training_job
from earwitness.needs import DATA_STAGES

__all__ = [
    "DATA_STAGES",
    "Ends",
    "Labelled",
    "Lessons",
    "Material",
    "calibrate_checker",
    "choosing_labels",
    "count_votes",
    "describe_clips",
    "lessons",
    "material",
    "sample_traces",
    "select_lessons",
    "sit_exam",
    "train_arms",
    "training_job",
    "verify_traces",
    "write_drafts",
]
