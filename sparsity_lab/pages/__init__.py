"""What can be read without Python? Pages that any browser shows from a folder, without a server or a network.

`gallery` turns executed notebooks into pages: `markdown` their text into HTML, and `outputs` what their cells show,
with the stops of sliders. `dial` writes what stands first: the dashboard's picture of the shipped runs. `training`
writes a script that trains in the page, by the lab's model and training in JavaScript (`site/engine_*.js`). Templates,
styles and scripts are in `site/`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
