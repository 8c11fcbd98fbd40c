"""Reports: one HTML file that needs nothing beside itself, readable on a phone, on paper, in the dark and by a keyboard.

Text is text: whatever a model wrote is shown, never run.
"""

from medground.report.charts import panels as panels
from medground.report.numbers import rounded as rounded
from medground.report.page import STATEMENT as STATEMENT
from medground.report.page import Cell as Cell
from medground.report.page import Table as Table
from medground.report.page import render as render
from medground.report.page import unbroken as unbroken
from medground.report.plot import Line as Line

__all__ = ["STATEMENT", "Cell", "Line", "Table", "panels", "render", "rounded", "unbroken"]
