"""Scores of a reconstruction against the ground truth of its clip (protocols: see each module).

``datasets`` finds clips and their truth, ``trajectory``, ``masks`` and ``depth`` compare arrays, ``scoring`` applies
them to a :class:`~easi3r_ns.core.scene.Scene`, ``tables`` formats results, ``runs`` makes and scores many clips.
"""
