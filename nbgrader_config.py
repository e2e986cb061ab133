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
    DeduplicateIds,
    IncludeHeaderFooter,
    LockCells,
    OverwriteCells,
    OverwriteKernelspec,
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


class RestoredChecks(OverwriteCells):
    """Gives checks back that a student deleted, at the end and in their order.

    OverwriteCells looks for the cell in front of a missing one, and stops the whole submission if that is a read-only
    cell, such as the hints.
    """

    def add_missing_grade_cells(self, nb, resources):
        """Append every graded cell that is not there."""
        source = self.gradebook.find_notebook(self.notebook_id, self.assignment_id)
        points = {cell.name: cell.max_score for cell in source.grade_cells}
        there = {cell.metadata.get("nbgrader", {}).get("grade_id") for cell in nb.cells}
        for cell in source.source_cells:
            if cell.name in points and cell.name not in there:
                nb.cells.append(self.missing_cell_transform(cell, points[cell.name]))
        return nb, resources


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
# The default steps, with deleted checks given back: else they would count as never asked.
c.Autograde.sanitize_preprocessors = [
    ClearOutput,
    DeduplicateIds,
    OverwriteKernelspec,
    RestoredChecks,
    CheckCellMetadata,
]
c.OverwriteCells.add_missing_cells = True
