"""Every architecture, for those who load teachers and students alike."""

from distillery.students import STUDENTS
from distillery.teachers import TEACHERS

ARCHITECTURES = {**TEACHERS, **STUDENTS}
