"""What only a machine with an NVIDIA GPU can show, in one go of eight minutes: `make gpu`.

`__main__` runs the steps that `plan` lists, each in a process of its own with a limit (`process`), and after each
writes what is known (`report`). `step` is what runs in the process. `install`, `device`, `tests`, `backends`,
`training`, `decode`, `speed`, `worth`, `many`, `memory` and `pieces` have a function `rows`, which measures. `place`
names folders.

What starts the steps and installs what is missing needs nothing but Python. With ``--device cpu`` the steps run on the
processor in small sizes: a rehearsal, which shows that they run.
"""
