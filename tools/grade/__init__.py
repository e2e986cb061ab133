"""Grade a folder of submissions so that the grades hold, whatever is in them.

nbgrader's grade book, exchange and formgrader stay; what stands here goes around them. A submission passes through the
files in this order: ``intake`` reads it, ``clean`` puts its answers into the released notebook, ``room`` runs it behind
``walls``, watched by ``sandbox``, and asks with the wrong answers of ``mistakes`` whether the checks still judge,
``batch`` does so for all of them, and ``book``, ``tables`` and ``pages`` give the points back.
"""
