"""A state goes to JSON and back without a changed bit; what is not a state is refused."""

import copy
import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nlsq_sklearn._engine.equations import Equations
from nlsq_sklearn._engine.record import check_consistency, from_record, to_record
from nlsq_sklearn._engine.state import FitState, Status
from nlsq_sklearn._engine.subproblem import Step
from tests.engine import equations_of

_N_CHUNKS = 7
# Finite: of any size, subnormal, or -0.0.
_FINITE = st.floats(allow_nan=False, allow_infinity=False)
_ANY = st.floats()


def _arrays(n, elements=_FINITE):
    return st.lists(elements, min_size=n, max_size=n).map(np.array)


def _equations(n_params, elements):
    n_packed = 2 + n_params + n_params * (n_params + 1) // 2
    return st.builds(
        Equations.from_packed,
        _arrays(n_packed, elements),
        st.just(n_params),
        st.floats(0, 1e15),  # rows; a fraction of them where older ones are forgotten
    )


def _entries(n_params):
    optional = st.none() | _FINITE
    return st.fixed_dictionaries(
        {
            "n_passes": st.integers(1, 10**6),
            "params": st.lists(_FINITE, min_size=n_params, max_size=n_params),
            "cost": optional,
            "accepted": st.booleans(),
            "damping": optional,
            "step_length": optional,
            "gain_ratio": optional,
            "radius": _FINITE,
        }
    )


@st.composite
def _fit_states(draw):
    """Draw a state that a fit can be in, by what it has; its numbers are any."""
    p = draw(st.integers(1, 4))
    n_candidates = draw(st.integers(1, 3))
    has_begun = draw(st.booleans())  # the first pass is behind it
    statuses = Status if has_begun else (Status.RUNNING, Status.NOT_FINITE)
    step = None
    if has_begun:
        step = draw(st.none() | st.builds(Step, _arrays(p), _FINITE, _FINITE, _FINITE))
    next_chunk = draw(st.integers(0, _N_CHUNKS))
    n_points = 1 if step is not None else n_candidates
    can_give_up = not has_begun and n_candidates > 1
    n_partial = n_points - draw(st.integers(0, can_give_up)) if next_chunk else 0
    return FitState(
        status=draw(st.sampled_from(statuses)),
        params=draw(_arrays(p)),
        equations=draw(_equations(p, _FINITE)) if has_begun else None,
        scale=draw(_arrays(p)),
        radius=draw(_FINITE),
        remaining=draw(_FINITE),
        step=step,
        candidates=np.stack([draw(_arrays(p)) for _ in range(n_candidates)]),
        guard=draw(_FINITE),
        n_iter=draw(st.integers(0, 10**6)),
        n_passes=draw(st.integers(1, 10**6)) if has_begun else 0,
        history=tuple(draw(st.lists(_entries(p), min_size=has_begun, max_size=3))),
        next_chunk=next_chunk,
        # The model may be infinite or NaN in some chunk of the pass in progress.
        partial=tuple(draw(_equations(p, _ANY)) for _ in range(n_partial)),
    )


def _bits(value):
    """Return a value in which equal means equal to the last bit, and nan is nan."""
    if isinstance(value, float):
        return "nan" if np.isnan(value) else struct.pack(">d", value)
    if isinstance(value, np.ndarray):
        return (value.shape, str(value.dtype), [_bits(v) for v in value.ravel().tolist()])
    if isinstance(value, dict):
        return {key: _bits(v) for key, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_bits(v) for v in value]
    return value


def _through_json(state):
    text = json.dumps(to_record(state), allow_nan=False)
    return from_record(json.loads(text), state.params.size, _N_CHUNKS)


@settings(deadline=None, max_examples=200)
@given(_fit_states())
def test_a_state_comes_back_from_json_to_the_last_bit(state):
    restored = _through_json(state)
    assert _bits(restored) == _bits(state)
    assert restored.status is state.status


def _state():
    """Return a state in mid-pass, with something in each field."""
    rng = np.random.default_rng(0)
    equations = Equations.from_packed(rng.normal(size=7), 2, 100.0)
    entry = {
        "n_passes": 1,
        "params": [1.0, 2.0],
        "cost": 0.5,
        "accepted": True,
        "damping": None,
        "step_length": None,
        "gain_ratio": None,
        "radius": 3.0,
    }
    return FitState(
        status=Status.RUNNING,
        params=np.array([1.0, 2.0]),
        equations=equations,
        scale=np.array([1.0, 0.5]),
        radius=2.0,
        remaining=0.25,
        step=Step(np.array([1.5, 2.5]), 0.1, 0.01, 1.0),
        candidates=np.ones((2, 2)),
        guard=0.75,
        n_iter=3,
        n_passes=4,
        history=(entry, entry),
        next_chunk=2,
        partial=(equations,),
    )


@pytest.mark.parametrize(
    "state",
    [
        _state()._replace(radius=np.inf),
        _state()._replace(remaining=np.inf),
        _state()._replace(step=Step(np.array([np.inf, -np.inf]), np.inf, np.inf, np.inf)),
        _state()._replace(
            history=({**_state().history[0], "params": [np.inf, 1.0], "step_length": np.inf},)
        ),
    ],
    ids=["radius", "remaining", "step", "history"],
)
def test_a_state_whose_step_overflowed_comes_back_from_json_too(state):
    assert _bits(_through_json(state)) == _bits(state)


def test_the_record_holds_nothing_but_what_json_has():
    def check(value):
        assert value is None or type(value) in (bool, int, float, str, list, dict), repr(value)
        children = value.values() if isinstance(value, dict) else value
        if isinstance(value, (dict, list)):
            for child in children:
                check(child)

    record = to_record(_state())
    check(record)
    assert record == json.loads(json.dumps(record, allow_nan=False))


def _paths(value, path=()):
    """Yield the path to each value of a record, that of the record itself left out."""
    if path:
        yield path
    if isinstance(value, (dict, list)):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _paths(child, (*path, key))


_RECORD = to_record(_state())
_PATHS = list(_paths(_RECORD))
# A shorter list of entries or candidates is one, too.
_NEEDED = [path for path in _PATHS if path[0] not in ("history", "candidates") or len(path) != 2]
# Places whose contents are read, and not only shown: the history is for the user.
_READ = [path for path in _PATHS if path[0] != "history"]


def _changed(path, change):
    """Return a copy of the record in which ``change(container, key)`` was applied at a path."""
    record = copy.deepcopy(_RECORD)
    container = record
    for key in path[:-1]:
        container = container[key]
    change(container, path[-1])
    return record


def _replaced(path, value):
    return _changed(path, lambda container, key: container.__setitem__(key, value))


def test_the_record_that_is_changed_below_is_a_state_as_it_stands():
    assert _bits(from_record(_RECORD, 2, _N_CHUNKS)) == _bits(_state())


@pytest.mark.parametrize("path", _NEEDED, ids=lambda path: ".".join(map(str, path)))
def test_a_record_that_lacks_a_key_or_an_element_is_refused(path):
    record = _changed(path, lambda container, key: container.__delitem__(key))
    with pytest.raises(ValueError, match=r"."):
        from_record(record, 2, _N_CHUNKS)


@pytest.mark.parametrize("path", _READ, ids=lambda path: ".".join(map(str, path)))
@pytest.mark.parametrize("junk", ["x", [], {}, [[]], {"a": 1}, True, "1.0"], ids=repr)
def test_a_record_with_a_value_of_the_wrong_kind_is_refused(path, junk):
    with pytest.raises(ValueError, match=r"."):
        from_record(_replaced(path, junk), 2, _N_CHUNKS)


@pytest.mark.parametrize("field", ["n_passes", "params", "cost", "accepted", "radius"])
@pytest.mark.parametrize("junk", ["x", {}, [[]]], ids=repr)
def test_a_history_with_a_value_of_the_wrong_kind_is_refused(field, junk):
    place = list(_state().history[0]).index(field)
    with pytest.raises(ValueError, match=r"."):
        from_record(_replaced(("history", 0, place), junk), 2, _N_CHUNKS)


@pytest.mark.parametrize("history", ["", "abcdefgh", ["abcdefgh"], {}, [{}]], ids=repr)
def test_a_history_that_is_no_list_of_entries_is_refused(history):
    with pytest.raises(ValueError, match=r"."):
        from_record(_replaced(("history",), history), 2, _N_CHUNKS)


_JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from(["inf", "-inf", "nan"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@settings(deadline=None, max_examples=500)
@given(st.sampled_from(_PATHS), _JUNK)
def test_a_record_with_any_value_anywhere_is_a_state_or_a_value_error(path, junk):
    try:
        state = from_record(_replaced(path, junk), 2, _N_CHUNKS)
    except ValueError:
        return
    assert isinstance(state, FitState)


@settings(deadline=None, max_examples=200)
@given(_JUNK)
def test_anything_else_than_a_record_is_a_value_error(junk):
    with pytest.raises(ValueError, match=r"."):
        from_record(junk, 2, _N_CHUNKS)


@pytest.mark.parametrize("n_params", [1, 3])
def test_a_record_of_another_number_of_parameters_is_refused(n_params):
    with pytest.raises(ValueError, match="size"):
        from_record(_RECORD, n_params, _N_CHUNKS)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("next_chunk", _N_CHUNKS + 1),
        ("next_chunk", 0),  # with sums of some chunks
        ("next_chunk", -1),
        ("partial", []),  # without the sums of the chunks before
        ("partial", 2 * _RECORD["partial"]),  # two sums for one trial point
        ("partial", [None]),
        ("candidates", []),
        ("partial", [{**_RECORD["partial"][0], "n_rows": -1.0}]),
        ("partial", [{**_RECORD["partial"][0], "n_rows": "nan"}]),
        ("partial", [{**_RECORD["partial"][0], "n_rows": "inf"}]),
        ("n_iter", -1),
        ("n_iter", 1.5),
        ("status", 17),
    ],
)
def test_a_place_in_the_data_that_is_not_one_of_this_fit_is_refused(field, value):
    with pytest.raises(ValueError, match=r"."):
        from_record(_replaced((field,), value), 2, _N_CHUNKS)


def test_the_end_of_a_pass_is_a_place_in_the_data():
    assert from_record(_replaced(("next_chunk",), _N_CHUNKS), 2, _N_CHUNKS).next_chunk == _N_CHUNKS


_POSITIVE = st.floats(0, exclude_min=True)
_SIDES = st.floats(-1e100, 1e100)


def _sums(n_params):
    """Return equations of three rows, of any size and sign."""
    rows = st.tuples(_arrays(3, _SIDES), _arrays(3 * n_params, _SIDES))
    return rows.map(lambda drawn: equations_of(drawn[0], drawn[1].reshape(3, n_params)))


@st.composite
def _summed_states(draw):
    """Draw a state whose numbers may come from data, too."""
    state = draw(_fit_states())
    p = state.params.size
    overflown = Equations.zero(p)._replace(cost=np.inf)
    partial = tuple(draw(st.just(overflown) | _sums(p)) for _ in state.partial)
    state = state._replace(partial=partial)
    if state.equations is None:
        return state
    step = state.step and state.step._replace(length=draw(_POSITIVE))
    scale = draw(_arrays(p, st.floats(1e-161, 1e200)))
    return state._replace(equations=draw(_sums(p)), scale=scale, radius=draw(_POSITIVE), step=step)


@settings(deadline=None, max_examples=100)
@given(_summed_states())
def test_a_state_that_a_fit_can_be_in_is_consistent(state):
    check_consistency(state)


def _with_sums(**changes):
    """Return a state in mid-pass, of real rows, and with changes of its accepted equations."""
    sums = equations_of(np.array([1.0, -2.0, 3.0]), np.array([[1.0, 2], [3, 4], [5, 6]]))
    return _state()._replace(equations=sums._replace(**changes), partial=(sums,))


def test_the_state_that_is_changed_below_is_consistent_as_it_stands():
    check_consistency(_with_sums())


_NEGATIVE = np.array([[-35.0, 0.0], [0.0, 56.0]])


@pytest.mark.parametrize(
    "state",
    [
        _with_sums(gram=_NEGATIVE),
        _with_sums(gram=np.array([[35.0, 45.0], [45.0, 56.0]])),
        _with_sums(gram=np.full((2, 2), np.nan)),
        _with_sums(gradient=np.array([np.inf, 0.0])),
        _with_sums(cost=-1.0),
        _with_sums(model_norm=-1.0),
        _with_sums()._replace(partial=(_with_sums(gram=_NEGATIVE).equations,)),
        *(
            _with_sums()._replace(scale=np.array([1.0, s]))
            for s in (0.0, 1e-300, -1.0, np.inf, np.nan)
        ),
        *(_with_sums()._replace(radius=r) for r in (0.0, -1.0, np.nan)),
        *(_with_sums()._replace(step=_state().step._replace(length=v)) for v in (0.0, np.nan)),
    ],
)
def test_a_state_of_no_rows_is_not_consistent(state):
    """Of which a fit could break in the algebra, or turn for ever."""
    with pytest.raises(ValueError, match=r"."):
        check_consistency(state)


@pytest.mark.parametrize(
    "state",
    [
        _state()._replace(equations=None),
        _state()._replace(n_passes=0),
        _state()._replace(equations=None, n_passes=0),  # a step from nowhere
        FitState.start(np.ones((1, 2)))._replace(status=Status.FTOL),
        _with_sums()._replace(history=()),
        FitState.start(np.ones((1, 2)))._replace(n_passes=1),  # there is nothing to compare again
        FitState.start(np.ones((2, 2)))._replace(n_passes=2),
    ],
    ids=[
        "no equations",
        "no passes",
        "only a step",
        "finished before it began",
        "no history",
        "one candidate, and a pass",
        "two first passes",
    ],
)
def test_a_state_that_no_fit_can_be_in_is_not(state):
    with pytest.raises(ValueError, match=r"."):
        check_consistency(state)
