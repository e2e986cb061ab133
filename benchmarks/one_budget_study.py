"""Every mechanism of the course on trained models, its cost curve and its trivial rival's; written to a JSON file.

``python -m benchmarks.one_budget_study`` turns the knob of each entry of :mod:`dynlib.mechanisms` through its values,
on as many held-out requests for all that share a backbone, and measures two pairs of mechanisms in one model. Nothing
is trained. Interrupt and call it again to resume.

"curves" are rows, one an entry of the registry, mechanisms and rivals alike:

- ``backbone``, ``mechanism``; ``rival``, the name of the trivial one on the same backbone or null; ``is rival``,
  whether it is somebody's;
- ``knob``, what the knob is called; ``worth``, what the quality is ("right": the share of right answers);
- ``requests``, how many were held out;
- ``curve``, a :class:`dynlib.cost.CostCurve` as ``CostCurve.of(row["curve"])`` reads it: FLOPs counted, seconds
  measured, joules modelled or read (its ``energy`` says which), quality with its 95 % interval.

"combinations" are rows, one a pair of mechanisms in one model:

- ``backbone``, ``mechanism``, ``knob``, ``worth``, ``requests`` as above; ``names``, of the two; ``full``, the pair of
  values at which neither saves anything;
- ``curve``, all pairs of values; the points at which one of the two is full are those of the other one alone, and
  ``singles`` are these two curves;
- ``multiply``, a row for each quality that was asked for: ``lost``, how much less than at ``full``; ``quality``;
  ``shares``, of the FLOPs at ``full``, the least at which each single one reaches it; ``product``, of the two;
  ``pair``, the least share of the pair; ``best single``, the smaller of the two. Then, as [estimate, low, high] of a
  bootstrap over the held-out requests, ``pair less product`` and ``pair over best single``. Shares are read on the
  concave hull of a curve: two values in turn reach what lies between them.
"""
