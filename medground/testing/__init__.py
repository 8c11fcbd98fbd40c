"""The conformance kit: what a plugin author calls from their own tests.

    def test_it_keeps_the_contract():
        check_segmenter(Threshold, quantile=0.7)

Each check makes the component from its factory and the arguments given, tries every promise of
`medground.protocols`, and raises one `ConformanceError` that lists all the promises broken, with the culprit values. What it
tries is logged line by line to ``medground.testing``, and returned. With ``quick=True`` it tries less, for components that
are slow. An argument of the component that is itself called ``quick`` is given by ``functools.partial``.
"""

from medground.testing.command import check_command
from medground.testing.engine import check_engine
from medground.testing.findings import ConformanceError, ConformanceReport
from medground.testing.prompt_interface import check_prompt_interface
from medground.testing.reader import check_reader
from medground.testing.reasoner import check_reasoner
from medground.testing.reward import check_reward
from medground.testing.rollout import check_rollout
from medground.testing.segmenter import check_segmenter
from medground.testing.tracker import check_tracker
from medground.testing.volume_segmenter import check_volume_segmenter

__all__ = [
    "ConformanceError",
    "ConformanceReport",
    "check_command",
    "check_engine",
    "check_prompt_interface",
    "check_reader",
    "check_reasoner",
    "check_reward",
    "check_rollout",
    "check_segmenter",
    "check_tracker",
    "check_volume_segmenter",
]
