"""How do notebooks become a course? They are executed, shown as pages, handed out as problem sets, and graded.

`execute` runs notebooks without a browser, `gallery` turns executed ones into pages that need no Python. `assignments`
makes the students' notebooks, `grading` gives marks and feedback; both use `nbgrader`, its converters in quiet. A
`worker` runs each submission in a `sandbox`. Problem sets import `dice`, a student's own random numbers.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
