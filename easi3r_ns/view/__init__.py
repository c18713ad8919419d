"""The 4D viewer: a scene as point clouds and cameras over time, in a browser, in a window, or as a video.

``clouds.py`` and ``cameras.py`` turn a scene into point clouds and camera poses once; ``look.py`` holds the display
settings and what they select. Three outputs share these: ``player.py`` (a viser server with its ``panel.py`` and
``nodes.py``), ``window.py`` (Open3D) and ``turntable.py`` (rendered on the CPU by ``splat.py``, encoded by
``video.py``).
"""
