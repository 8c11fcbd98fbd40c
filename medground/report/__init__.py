"""Reports: one HTML file that needs nothing beside itself, readable on a phone, on paper, in the dark and by a keyboard.

Text is text: whatever a model wrote is shown, never run.
"""

from medground.report.charts import panels
from medground.report.numbers import rounded
from medground.report.page import STATEMENT, Cell, Table, render, unbroken
from medground.report.plot import Line

__all__ = ["STATEMENT", "Cell", "Line", "Table", "panels", "render", "rounded", "unbroken"]
