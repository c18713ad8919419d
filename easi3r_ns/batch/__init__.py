"""Many clips, each a dataset of its own, on this machine or a Ray cluster.

``jobs`` names clips and says where their files lie; ``runner`` is the process that makes one dataset, which ``work``
starts and watches; ``schedule`` decides what is done when, on ``one_by_one`` or ``on_ray``; ``record`` keeps how each
clip ended, and ``index`` draws the page of all.
"""
