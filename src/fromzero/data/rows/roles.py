"""Which column of a file is what."""

from __future__ import annotations

from fromzero.data.images import SUFFIXES
from fromzero.data.rows.passing import computing
from fromzero.data.rows.reading import Rows
from fromzero.errors import DataError, UsageError

# What a column may be called, without regard to case. Others are named by the caller.
NAMES = {
    "image": ("image", "image_path", "img", "path", "file", "filename", "file_name", "图片", "图像", "文件", "文件名"),
    "text": ("text", "content", "sentence", "review", "comment", "文本", "内容", "正文", "句子", "评论", "评价"),
    "label": ("label", "target", "class", "y", "category", "标签", "类别", "分类", "标注", "目标"),
    "split": ("split", "划分", "数据划分"),
    "group": ("group", "groups", "分组", "组"),
    "time": ("time", "date", "timestamp", "时间", "日期"),
}


def roles_of(rows: Rows, label: str | None, text: str | None) -> dict[str, str]:
    """Which column is what: {"label": "类别", "text": "评论", ...}; the caller's word first, then the file's, then
    the usual names."""
    for asked in (label, text):
        if asked and asked not in rows.columns:
            raise UsageError("no_such_column", name=asked, columns=", ".join(rows.columns))
    folded = {each.strip().casefold(): each for each in reversed(rows.columns)}
    roles = {role: folded[name] for role, names in NAMES.items() for name in reversed(names) if name in folded}
    roles |= {role: name for role, name in (("label", rows.target), ("text", rows.text)) if name}
    roles |= {role: name for role, name in (("label", label), ("text", text)) if name}
    if rows.text or text:
        roles.pop("image", None)
    if roles.get("text") == roles.get("label"):
        roles.pop("text", None)
    return roles


def are_pictures(rows: Rows, column: str) -> bool:
    """Whether the first rows of a column name pictures."""
    first = next(iter(rows.batches()), None)
    if first is None:
        raise DataError("no_rows", path=rows.path)
    cells = first.column(column)
    if computing().types.is_nested(cells.type):
        raise DataError("pictures_inside", path=rows.path, column=column)
    some = [str(each.as_py() or "") for each in cells[:20]]
    return sum(each.lower().endswith(SUFFIXES) for each in some) * 2 >= len(some)
