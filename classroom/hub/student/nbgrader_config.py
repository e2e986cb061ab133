"""Where a student's JupyterLab finds what is handed out, and under which name it hands in."""

import os

c = get_config()

c.CourseDirectory.course_id = "dynlib"
# nbgrader asks for the account's name, and in a pod there is none. Who says another name is found out: collecting looks
# at whose the files are.
c.CourseDirectory.student_id = os.environ.get("JUPYTERHUB_USER", "*")
c.Exchange.root = os.path.join(os.environ.get("DYNLIB_HUB", "/srv/dynlib"), "exchange")
