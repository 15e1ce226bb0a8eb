"""Columns of data files: the numbers that are in them, in order, and never the whole file."""

import bz2
import gzip
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from nlsq_sklearn import InvalidRowError
from nlsq_sklearn._files import Columns, open_file

N_ROWS = 5000
COLUMNS = Columns(("time",), "counts", sigma="error")
BY_NUMBER = Columns(("0",), "1", sigma="2")


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    return {
        "time": np.linspace(0, 5, N_ROWS),
        "label": np.array(["a"] * N_ROWS),
        "counts": rng.normal(size=N_ROWS),
        "error": rng.uniform(0.5, 1, N_ROWS),
    }


def write_text(path, table, delimiter=",", head=True, numbers=repr):
    names = [name for name in table if head or name != "label"]
    lines = [delimiter.join(names)] if head else []
    for row in zip(*(table[name].tolist() for name in names), strict=True):
        cells = [value if isinstance(value, str) else numbers(value) for value in row]
        lines.append(delimiter.join(cells))
    text = ("\n".join(lines) + "\n").encode()
    if path.suffix == ".gz":
        text = gzip.compress(text)
    elif path.suffix == ".bz2":
        text = bz2.compress(text)
    path.write_bytes(text)


def rows_of(stream):
    """Return all rows of a stream, as they come."""
    return [batch.rows() for batch in stream.batches()]


def assert_holds(stream, table, x=("time",), y="counts", sigma="error"):
    parts = rows_of(stream)
    assert stream.n_rows == N_ROWS == sum(part.y.size for part in parts)
    assert stream.n_features == len(x)
    for i, name in enumerate(x):
        column = np.concatenate([part.columns[i] for part in parts])
        np.testing.assert_array_equal(column, table[name])
    np.testing.assert_array_equal(np.concatenate([part.y for part in parts]), table[y])
    if sigma is not None:
        np.testing.assert_array_equal(np.concatenate([p.sigma for p in parts]), table[sigma])


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.csv.bz2", "a.txt", "a.CSV"])
def test_text_gives_the_numbers_that_it_holds_to_the_last_bit(tmp_path, table, name):
    write_text(tmp_path / name, table)
    assert_holds(open_file(str(tmp_path / name), COLUMNS), table)


@pytest.mark.parametrize(
    ("delimiter", "decimal"), [(";", ","), ("\t", "."), ("|", "."), (";", ".")]
)
def test_other_delimiters_and_decimal_commas_are_seen(tmp_path, table, delimiter, decimal):
    path = tmp_path / "a.csv"
    write_text(path, table, delimiter, numbers=lambda v: repr(v).replace(".", decimal))
    assert_holds(open_file(str(path), COLUMNS), table)


def test_text_without_names_has_columns_by_number(tmp_path, table):
    path = tmp_path / "a.csv"
    write_text(path, table, head=False)
    assert_holds(open_file(str(path), BY_NUMBER), table)


def test_comments_blanks_a_byte_order_mark_and_line_ends_of_windows_do_no_harm(tmp_path, table):
    path = tmp_path / "a.csv"
    write_text(path, table)
    text = path.read_bytes().replace(b",", b" , ").replace(b"\n", b"\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + text)
    assert_holds(open_file(str(path), COLUMNS), table)
    path.write_bytes(b"# made by hand\r\n# in 2026\r\n" + text)
    assert_holds(open_file(str(path), COLUMNS), table)


def test_parts_of_a_text_file_may_be_of_any_length(tmp_path, table, monkeypatch):
    monkeypatch.setattr("nlsq_sklearn._files.text._BLOCK_BYTES", 1500)
    wordy = {**table, "label": np.array(["b" * (i % 97) for i in range(N_ROWS)])}
    write_text(tmp_path / "a.csv", wordy)
    assert_holds(open_file(str(tmp_path / "a.csv"), COLUMNS, 333), table)


@pytest.mark.parametrize("rows", [N_ROWS, 700, 1])
def test_parquet_is_read_by_its_row_groups(tmp_path, table, rows, monkeypatch):
    monkeypatch.setattr("nlsq_sklearn._files.parquet.ROWS_AT_ONCE", 1500)
    length = N_ROWS if rows > 1 else 40
    part = {name: column[:length] for name, column in table.items()}
    pq.write_table(pa.table(part), tmp_path / "a.parquet", row_group_size=rows)
    stream = open_file(str(tmp_path / "a.parquet"), COLUMNS)
    if rows == 700:
        assert stream.chunk_size == [1400, 1400, 1400, 800]
        assert_holds(stream, table)
    else:
        assert stream.chunk_size == [length]


def test_a_directory_of_parquet_files_is_one_table(tmp_path, table):
    for i, part in enumerate(np.array_split(np.arange(N_ROWS), 3)):
        piece = {name: column[part] for name, column in table.items()}
        pq.write_table(pa.table(piece), tmp_path / f"part-{i}.parquet")
    assert_holds(open_file(str(tmp_path), COLUMNS), table)


def test_parquet_columns_of_any_kind_of_number_become_float64(tmp_path):
    columns = {
        "x": pa.array([1, 2, 3, None], pa.int32()),
        "y": pa.array([0.5, None, 1.5, 2.5], pa.float32()),
        "w": pa.array([True, False, True, True]),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    (rows,) = rows_of(open_file(str(tmp_path / "a.parquet"), Columns(("x",), "y", weight="w")))
    np.testing.assert_array_equal(rows.columns[0], [1, 2, 3, np.nan])
    np.testing.assert_array_equal(rows.y, [0.5, np.nan, 1.5, 2.5])
    np.testing.assert_array_equal(rows.weight, [1, 0, 1, 1])


def test_an_array_on_disk_has_columns_by_number_or_by_the_names_of_its_fields(tmp_path, table):
    numbers = [table[name] for name in ("time", "counts", "error")]
    np.save(tmp_path / "a.npy", np.column_stack(numbers))
    assert_holds(open_file(str(tmp_path / "a.npy"), BY_NUMBER), table)
    fields = np.rec.fromarrays(numbers, names="time,counts,error")
    np.save(tmp_path / "b.npy", fields)
    assert_holds(open_file(str(tmp_path / "b.npy"), COLUMNS), table)


def test_zarr_is_a_group_of_columns_or_an_array_with_columns_by_number(tmp_path, table):
    group = zarr.open_group(tmp_path / "group.zarr", mode="w")
    for name, rows in (("time", 900), ("counts", 700), ("error", 5000)):
        group.create_array(name, data=table[name], chunks=(rows,))
    assert_holds(open_file(str(tmp_path / "group.zarr"), COLUMNS), table)
    numbers = np.column_stack([table[name] for name in ("time", "counts", "error")])
    zarr.create_array(str(tmp_path / "array.zarr"), data=numbers, chunks=(800, 2))
    assert_holds(open_file(str(tmp_path / "array.zarr"), BY_NUMBER), table)


def test_several_predictors_keep_their_order(tmp_path, table):
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    write_text(tmp_path / "a.csv", table)
    for name in ("a.parquet", "a.csv"):
        stream = open_file(str(tmp_path / name), Columns(("error", "time"), "counts"))
        assert_holds(stream, table, x=("error", "time"), sigma=None)


def refusal(path, columns=COLUMNS, error=ValueError):
    with pytest.raises(error) as caught:
        open_file(str(path), columns)
    return str(caught.value)


def test_a_column_that_is_not_there_is_answered_with_those_that_are(tmp_path, table):
    write_text(tmp_path / "a.csv", table)
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    for name in ("a.csv", "a.parquet"):
        message = refusal(tmp_path / name, COLUMNS._replace(y="Count"))
        assert "no column 'Count'. Did you mean 'counts'?" in message
        assert "It has: time, label, counts, error." in message
    np.save(tmp_path / "a.npy", np.zeros((9, 2)))
    assert "give their numbers. It has: 0, 1." in refusal(tmp_path / "a.npy")


def test_of_many_columns_some_are_named(tmp_path):
    (tmp_path / "a.csv").write_text(",".join(f"c{i}" for i in range(50)) + "\n")
    assert "c19 and 30 more." in refusal(tmp_path / "a.csv")


def test_two_columns_of_one_name_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("time,counts,error,time\n1,2,3,4\n")
    assert "2 columns of the name 'time'" in refusal(tmp_path / "a.csv")


def test_text_that_is_no_number_is_told_with_its_line(tmp_path, table):
    write_text(tmp_path / "a.csv", table)
    lines = (tmp_path / "a.csv").read_text().splitlines()
    lines[3000] = "1.5,a,oops,1"
    (tmp_path / "a.csv").write_text("\n".join(lines))
    message = refusal(tmp_path / "a.csv")
    assert "The column 'counts'" in message
    assert "holds 'oops' in line 3001" in message
    assert "holds 'a' in line 2" in refusal(tmp_path / "a.csv", COLUMNS._replace(y="label"))
    lines[3000] = "1.5,a"
    (tmp_path / "a.csv").write_text("\n".join(lines))
    assert "has 2 cells in line 3001; expected 4" in refusal(tmp_path / "a.csv")


def test_an_empty_cell_is_a_missing_value_whose_row_the_fit_names(tmp_path, table):
    write_text(tmp_path / "a.csv", {**table, "counts": np.where(table["time"] > 4, np.nan, 1.0)})
    stream = open_file(str(tmp_path / "a.csv"), COLUMNS)
    with pytest.raises(InvalidRowError, match=r"y is nan in row 4000"):
        stream.check()


def test_columns_that_hold_no_numbers_are_refused(tmp_path, table):
    times = pa.array(np.arange(N_ROWS), pa.timestamp("s"))
    pq.write_table(pa.table({**table, "when": times}), tmp_path / "a.parquet")
    assert "holds text" in refusal(tmp_path / "a.parquet", COLUMNS._replace(y="label"))
    message = refusal(tmp_path / "a.parquet", COLUMNS._replace(x=("when",)))
    assert "timestamp" in message
    assert "seconds since the first" in message
    np.save(tmp_path / "a.npy", np.zeros((9, 3), complex))
    assert "complex128" in refusal(tmp_path / "a.npy", BY_NUMBER)


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.npy", "a.csv.gz"])
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"PAR1 and nothing of the kind")
    assert str(tmp_path / name) in refusal(tmp_path / name)
    (tmp_path / name).write_bytes(b"")
    assert str(tmp_path / name) in refusal(tmp_path / name)


def test_a_file_without_rows_is_refused(tmp_path, table):
    empty = {name: column[:0] for name, column in table.items()}
    pq.write_table(pa.table(empty), tmp_path / "a.parquet")
    write_text(tmp_path / "a.csv", empty)
    for name in ("a.csv", "a.parquet"):
        assert "no rows" in refusal(tmp_path / name)


def test_what_is_not_there_or_of_no_known_kind_is_told(tmp_path, table):
    write_text(tmp_path / "data.csv", table)
    assert "Did you mean" in refusal(tmp_path / "dat.csv", error=FileNotFoundError)
    assert "no directory" in refusal(tmp_path / "a" / "data.csv", error=FileNotFoundError)
    (tmp_path / "data.xlsx").write_bytes(b"")
    message = refusal(tmp_path / "data.xlsx")
    for kind in (".parquet", ".csv", ".npy", ".zarr"):
        assert kind in message


def test_columns_along_the_wrong_axis_are_told_to_be_turned(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((3, 1000)))
    assert "transpose" in refusal(tmp_path / "a.npy", BY_NUMBER)


@pytest.mark.parametrize(
    ("name", "package"), [("a.parquet", "pyarrow"), ("a.csv", "pyarrow"), ("a.zarr", "zarr")]
)
def test_a_package_that_is_missing_is_named_with_the_command(tmp_path, monkeypatch, name, package):
    (tmp_path / name).write_text("time,counts,error\n1,2,3\n")
    monkeypatch.setitem(__import__("sys").modules, package, None)
    message = refusal(tmp_path / name, error=ImportError)
    assert package in message
    assert "pip install 'nlsq_sklearn[files]'" in message


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.npy", "a.zarr"])
def test_the_token_is_that_of_the_file_and_changes_with_it(tmp_path, table, name):
    path = tmp_path / name

    def write(factor):
        numbers = {n: table[n] * factor for n in ("time", "counts", "error")}
        if name == "a.csv":
            write_text(path, numbers)
        elif name == "a.parquet":
            pq.write_table(pa.table(numbers), path)
        elif name == "a.npy":
            np.save(path, np.column_stack(list(numbers.values())))
        else:
            group = zarr.open_group(path, mode="w")
            for column, values in numbers.items():
                group.create_array(column, data=values)

    columns = BY_NUMBER if name == "a.npy" else COLUMNS
    write(1.0)
    token = open_file(str(path), columns).token()
    assert open_file(str(path), columns).token() == token
    assert open_file(str(path), columns._replace(sigma=None)).token() != token
    write(2.0)
    assert open_file(str(path), columns).token() != token


def test_a_text_file_is_not_held_in_memory(tmp_path):
    n_rows = 400_000  # 6.4 MB of numbers
    values = np.random.default_rng(0).normal(size=(n_rows, 2)).round(3)
    np.savetxt(tmp_path / "a.csv", values, "%g", ",", header="x,y", comments="")
    stream = open_file(str(tmp_path / "a.csv"), Columns(("x",), "y"), 10_000)
    tracemalloc.start()
    try:
        total = sum(stream.rows(i, i + 10_000).y.sum() for i in range(0, n_rows, 10_000))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    np.testing.assert_allclose(total, values[:, 1].sum())


def test_temporary_files_have_no_name_that_could_stay_behind(tmp_path, table, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    write_text(tmp_path / "a.csv", table)
    stream = open_file(str(tmp_path / "a.csv"), COLUMNS)
    assert list(folder.iterdir()) == []
    assert_holds(stream, table)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(OSError, match="TMPDIR"):
        open_file(str(tmp_path / "a.csv"), COLUMNS)
