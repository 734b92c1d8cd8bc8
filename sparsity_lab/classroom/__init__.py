"""How do notebooks become a course? They are executed, handed out as problem sets, and graded.

`learners_copy` puts notebooks into a learner's folder, and `execute` runs notebooks without a browser. `assignments`
makes what students get, and they `check` their notebook before they hand it in. `collect` finds what was handed in, and
`handed_in` reads one notebook. The `examiner` runs its tests; over a `student_line` it calls the `student` side,
which runs the cells in a `sandbox` and gives answers as data (`answer_values`). `grading` takes up all submissions,
`nbgrader` keeps the points, `marks` writes tables, `written_text` makes a student's text safe for `feedback` and for
`marking` written answers, and `similar` compares code. Problem sets import `dice`, a student's own random numbers,
`canary`, nobody's, `flops_of`, and `check_notebook`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
