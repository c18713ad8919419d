"""Trains the small network that ships, from scratch, on scenes that the package renders. Nothing is downloaded.

Train, on a CPU or a GPU (the same command resumes an interrupted run; learning curve, checkpoints and the export land
in the folder)::

    python -m easi3r_ns.training --output-dir runs/tiny --minutes 120 --bf16
    python -m easi3r_ns.training --output-dir runs/tiny --minutes 25 --bf16 --device cuda --batch-scale 32

Measure a checkpoint on scenes and textures that it was never trained on, choose the signs of its dynamic score on a
third set, and write both into its card::

    python -m easi3r_ns.training.measure runs/tiny/export --update-card

The scenes are static: the network is never trained to detect motion. On a machine that others use too, set
``OMP_WAIT_POLICY=PASSIVE``, so that waiting threads sleep.
"""
