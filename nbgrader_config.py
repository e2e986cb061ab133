"""How nbgrader turns solutions/ into exercises/, and how it grades.

A teacher copies this file into a course folder of their own and runs nbgrader there: see README.md.
"""

from nbgrader.preprocessors import (
    CheckCellMetadata,
    ClearHiddenTests,
    ClearMarkScheme,
    ClearOutput,
    ClearSolutions,
    ComputeChecksums,
    IncludeHeaderFooter,
    LockCells,
    SaveCells,
)


class NamedStubs(ClearSolutions):
    """Clears solutions and leaves a stub that names its task."""

    def preprocess_cell(self, cell, resources, cell_index):
        """Replace the answer of one cell."""
        task = cell.metadata.get("nbgrader", {}).get("grade_id", "").removesuffix("-answer")
        self.code_stub = {
            "python": f'raise NotImplementedError("{task}: not filled in yet, write your answer in place of this line")'
        }
        return super().preprocess_cell(cell, resources, cell_index)


c = get_config()

c.CourseDirectory.course_id = "dynlib"
c.CourseDirectory.source_directory = "solutions"
c.CourseDirectory.release_directory = "exercises"

# The default steps, with named stubs in place of anonymous ones.
c.GenerateAssignment.preprocessors = [
    IncludeHeaderFooter,
    LockCells,
    NamedStubs,
    ClearOutput,
    CheckCellMetadata,
    ComputeChecksums,
    SaveCells,
    ClearHiddenTests,
    ClearMarkScheme,
    ComputeChecksums,
    CheckCellMetadata,
]

c.Execute.timeout = 60  # seconds for a cell; every right answer needs a few at most
c.OverwriteCells.add_missing_cells = True  # a deleted check counts as failed, not as never asked
