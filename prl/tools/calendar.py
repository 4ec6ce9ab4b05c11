"""A calendar: the weekday of a date, days between dates, and a date some days on."""

import re
from datetime import date, timedelta

from prl.tools.base import Tool, ToolError

_DATE = r"(\d{4}-\d{2}-\d{2})"
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


class Calendar(Tool):
    """Answer `weekday DATE`, `days DATE DATE` and `add DATE DAYS`, with dates as YYYY-MM-DD."""

    def answer(self, text: str) -> str:
        """Answer one of the three questions."""
        text = text.strip()
        try:
            if found := re.fullmatch(rf"weekday {_DATE}", text):
                return _DAYS[date.fromisoformat(found[1]).weekday()]
            if found := re.fullmatch(rf"days {_DATE} {_DATE}", text):
                return str((date.fromisoformat(found[2]) - date.fromisoformat(found[1])).days)
            if found := re.fullmatch(rf"add {_DATE} (-?\d{{1,7}})", text):
                return str(date.fromisoformat(found[1]) + timedelta(int(found[2])))
        except (ValueError, OverflowError) as error:
            raise ToolError(str(error)) from None
        raise ToolError("ask for weekday DATE, days DATE DATE or add DATE DAYS, dates as YYYY-MM-DD")
