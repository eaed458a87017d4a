"""A pickled table is read; a pickle that would call anything is refused before it does."""

import os
import pickle
import sys
import types

import numpy as np
import pytest

from fromzero.data.sources.frames import rows_of


class Made:
    """Stands for a class of pandas: what it is made of, under its name there."""

    def __init__(self, path, given, state=None):
        self.path, self.given, self.state = path, given, state

    def __reduce__(self):
        module, _, name = self.path.rpartition(".")
        return (
            (named(module, name), self.given) if self.state is None else (named(module, name), self.given, self.state)
        )


def named(module, name):
    """A class that pickles as `module.name`."""
    parts = module.split(".")
    for end in range(1, len(parts) + 1):  # pickle imports a module by way of its packages
        sys.modules.setdefault(".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
    found = sys.modules[module]
    if not hasattr(found, name):
        setattr(found, name, type(name, (), {"__module__": module}))
    return getattr(found, name)


def frame(columns, blocks):
    names = Made("pandas.core.indexes.base._new_Index", (None, {"data": np.array(columns, object), "name": None}))
    parts = tuple(Made("pandas._libs.internals._unpickle_block", (values, place, 2)) for values, place in blocks)
    manager = Made("pandas.core.internals.managers.BlockManager", (parts, [names, None]))
    return pickle.dumps(Made("pandas.core.frame.DataFrame", (), {"_mgr": manager}))


@pytest.fixture(autouse=True)
def _no_pandas(monkeypatch):
    """The names of pandas without pandas, which is not among what fromzero brings."""
    for name in [each for each in sys.modules if each.split(".")[0] == "pandas"]:
        monkeypatch.delitem(sys.modules, name)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.split(".")[0] == "pandas":
            del sys.modules[name]


def test_a_table():
    content = frame(
        ["city", "loan", "rate"],
        [
            (np.array([["上海", None]], object), np.array([0])),
            (np.array([[100, 200]]), slice(1, 2, 1)),
            (np.array([[1.5, np.nan]]), slice(2, 3, 1)),
        ],
    )
    assert list(rows_of(content)) == [["city", "loan", "rate"], ["上海", "100", "1.5"], ["", "200", ""]]


class Evil:
    def __init__(self, call, *given):
        self.call, self.given = call, given

    def __reduce__(self):
        return self.call, self.given


@pytest.mark.parametrize(
    ("call", "given"), [(os.system, "touch pwned"), (eval, "open('pwned', 'w')"), (getattr, "x"), (np.load, "x.npy")]
)
def test_a_pickle_that_would_run_something(tmp_path, monkeypatch, call, given):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(pickle.UnpicklingError):
        list(rows_of(pickle.dumps(Evil(call, given))))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("what", [None, 3, [1], {"a": 1}])
def test_a_pickle_of_something_else(what):
    with pytest.raises(pickle.UnpicklingError):
        list(rows_of(pickle.dumps(what)))


def test_blocks_that_do_not_fit():
    block = np.array([[1, 2]])
    assert len(list(rows_of(frame(["a"], [(block, slice(0, 1, 1))])))) == 3
    with pytest.raises(ValueError):  # two columns, one row of values
        list(rows_of(frame(["a", "b"], [(block, slice(0, 2, 1))])))
    with pytest.raises(pickle.UnpicklingError):  # nothing for "b"
        list(rows_of(frame(["a", "b"], [(block, slice(0, 1, 1))])))
