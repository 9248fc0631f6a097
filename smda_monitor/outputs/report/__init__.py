"""One HTML file that opens without a server, written from the ledger alone."""

from .page import write_report
from .sink import ReportSink

__all__ = ["ReportSink", "write_report"]
