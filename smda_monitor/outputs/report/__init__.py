"""One HTML file that opens without a server, written from what lies in the folder alone."""

from .sink import ReportSink
from .write import write_report

__all__ = ["ReportSink", "write_report"]
