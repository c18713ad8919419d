"""The report card of a dataset: is it worth training on, and why?

``measures.py`` and ``residuals.py`` measure a scene, ``rules.py`` and ``verdict.py`` judge the measures, ``sections/``
and ``page.py`` make ``report.html`` (what it looks like stands in ``template.html.jinja``, ``macros.html.jinja`` and
``style.css``), ``preview.py`` makes ``preview.mp4``, and ``card.py`` writes both into a dataset.
"""
