"""Reports: one HTML file that needs nothing beside itself, readable on a phone, on paper, in the dark and by a keyboard.

Text is text: whatever a model wrote is shown, never run. Only what this package made is markup (`Html`).
"""

from medground.report.charts import bars as bars
from medground.report.charts import line_chart as line_chart
from medground.report.charts import panels as panels
from medground.report.charts import scatter as scatter
from medground.report.html import Html as Html
from medground.report.html import details as details
from medground.report.html import figure as figure
from medground.report.html import gallery as gallery
from medground.report.html import grid as grid
from medground.report.html import heading as heading
from medground.report.html import paragraph as paragraph
from medground.report.html import preformatted as preformatted
from medground.report.html import rounded as rounded
from medground.report.html import table as table
from medground.report.page import STATEMENT as STATEMENT
from medground.report.page import Section as Section
from medground.report.page import page as page
from medground.report.plot import Line as Line

__all__ = [
    "STATEMENT", "Html", "Line", "Section", "bars", "details", "figure", "gallery", "grid", "heading", "line_chart", "page",
    "panels", "paragraph", "preformatted", "rounded", "scatter", "table",
]  # fmt: skip
