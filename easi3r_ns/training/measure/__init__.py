"""What a checkpoint can do, on scenes that it has never seen: ``python -m easi3r_ns.training.measure WEIGHTS``.

``pairs`` geometry of static pairs; ``motion`` the dynamic score; ``paths`` clips from end to end; ``choose`` which
formula and graph the card gets; ``run`` all of it; ``tables`` and ``figure`` what people read.
"""
