"""`easi3r edit`: a page for a browser on this machine, in which motion masks are corrected by hand.

``session`` holds what is corrected and what can be undone, ``server`` serves the page and takes its requests, and
``page/`` is the page itself. Following a region through the clip, and solving again, are given to it from outside.
"""
