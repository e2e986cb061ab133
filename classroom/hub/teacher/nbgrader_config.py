"""A teacher's nbgrader: the course's folder, what is handed out, and an exchange that trusts nobody.

JUPYTER_CONFIG_PATH names the folder that it lies in; in a teacher's JupyterLab the hub sees to that.
"""

import os
import sys
from pathlib import Path

CHECKOUT = Path(os.environ.get("DYNLIB_CHECKOUT", Path.home() / "dynlib"))
COURSE = Path(os.environ.get("DYNLIB_COURSE", Path.home() / "course"))
if not (CHECKOUT / "classroom" / "hub" / "exchange.py").is_file():
    raise ValueError(f"the course is not in {CHECKOUT}: set DYNLIB_CHECKOUT to the folder that it was cloned into")
sys.path.append(str(CHECKOUT))
from classroom.hub.exchange import Collect, ReleaseFeedback  # noqa: E402

c = get_config()

c.CourseDirectory.course_id = "dynlib"
c.CourseDirectory.root = str(COURSE)
c.CourseDirectory.source_directory = str(CHECKOUT / "solutions")
c.CourseDirectory.release_directory = str(CHECKOUT / "exercises")
c.Exchange.root = os.path.join(os.environ.get("DYNLIB_HUB", "/srv/dynlib"), "exchange")
c.ExchangeFactory.collect = Collect
c.ExchangeFactory.release_feedback = ReleaseFeedback
c.ExchangeCollect.update = True  # the last submission counts, however often one collects
c.Collect.owners = os.environ.get("DYNLIB_OWNERS", "accounts")  # "ids" for a hub on Kubernetes
