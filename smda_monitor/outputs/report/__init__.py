"""One HTML file that opens without a server, written from what lies in the folder alone."""

from .rendering import PAGE
from .renew import renew_report, renew_report_with
from .sink import ReportSink
from .write import write_report

__all__ = ["PAGE", "ReportSink", "renew_report", "renew_report_with", "write_report"]
