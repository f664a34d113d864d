"""Reading, checking and fetching data files; right answers come from hand-made files and published facts."""

import hashlib
import http.server
import threading
from pathlib import Path

import numpy as np
import pytest

from fedbench import CsvFile, DataError, DataMissingError, Embedded, MedMNIST, NpzFile, SpecError, datasets


def md5(content):
    return hashlib.md5(content).hexdigest()


def layout(*, channels=None, sizes=(4, 2, 3)):
    """Small arrays in MedMNIST's layout; image i of all is filled with i, its label is i % 2."""
    arrays, start = {}, 0
    for split, n in zip(("train", "val", "test"), sizes, strict=True):
        fill = np.arange(start, start + n, dtype=np.uint8).reshape(n, 1, 1)
        images = np.broadcast_to(fill, (n, 28, 28))
        arrays[f"{split}_images"] = images if channels is None else np.repeat(images[..., None], channels, 3)
        arrays[f"{split}_labels"] = (np.arange(start, start + n, dtype=np.uint8) % 2).reshape(n, 1)
        start += n
    return arrays


def organc(path, *, counts=(4, 2, 3), shape=(28, 28, 1), classes=("a", "b"), digest=None):
    """The reader of an official set, with the MD5 of the small file that stands in for it."""
    return MedMNIST(
        flag="organcmnist",
        md5=digest or md5(path.read_bytes()),
        classes=classes,
        shape=shape,
        counts=dict(zip(("train", "validation", "test"), counts, strict=True)),
        license="CC BY 4.0",
    )


@pytest.fixture(autouse=True)
def _empty_home(tmp_path, monkeypatch):
    """Nothing on this machine is found, and nothing is written outside the test's folder."""
    home = tmp_path / "home"
    home.mkdir()
    for name, value in {"HOME": home, "USERPROFILE": home, "XDG_CACHE_HOME": home / "cache"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("FEDBENCH_MIRROR", raising=False)
    monkeypatch.setattr(datasets, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(datasets, "BLOCK", 500)
    monkeypatch.setattr(datasets.platformdirs, "user_cache_dir", lambda name: str(home / "cache" / name))


@pytest.fixture
def no_data(monkeypatch):
    monkeypatch.delenv("FEDBENCH_DATA", raising=False)


@pytest.fixture
def file(tmp_path):
    folder = tmp_path / "given"
    folder.mkdir()
    path = folder / "organcmnist.npz"
    np.savez(path, **layout())
    return path


# --- reading ---


def test_grey_images_get_a_channel_axis_and_splits_are_consecutive(file):
    data = organc(file).load(file.parent)
    assert data.inputs.shape == (9, 28, 28, 1)
    assert data.inputs.dtype == np.uint8
    assert data.inputs[:, 0, 0, 0].tolist() == list(range(9))
    assert data.targets.dtype == np.int64
    assert data.targets.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0]
    assert (data.train.tolist(), data.validation.tolist(), data.test.tolist()) == ([0, 1, 2, 3], [4, 5], [6, 7, 8])
    assert data.sites is None


def test_colour_images_keep_their_channels(file):
    np.savez(file, **layout(channels=3))
    assert organc(file, shape=(28, 28, 3)).load(file.parent).inputs.shape == (9, 28, 28, 3)


def test_load_leaves_the_file_alone(file):
    before = (file.read_bytes(), file.stat().st_mtime_ns)
    organc(file).load(file.parent)
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before


def test_wrong_md5_names_file_both_sums_and_mend(file):
    data = organc(file, digest="0" * 32)
    found = md5(file.read_bytes())
    with pytest.raises(DataError, match=rf"organcmnist\.npz .*{found}, not {'0' * 32}; .*data fetch organcmnist"):
        data.load(file.parent)


def test_truncated_file_has_another_md5(file):
    data = organc(file)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match="MD5"):
        data.load(file.parent)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 broken", b"\x93NUMPY\x01\x00"])
def test_what_is_no_archive_is_an_error_even_with_the_right_md5(file, content):
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"organcmnist\.npz cannot be read as \.npz"):
        organc(file).load(file.parent)


def test_truncated_archive_with_the_right_md5(file):
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match="cannot be read"):
        organc(file).load(file.parent)


def test_pickled_arrays_are_refused(file):
    np.savez(file, **layout() | {"train_labels": np.array([object()] * 4)})
    with pytest.raises(DataError, match="cannot be read"):
        organc(file).load(file.parent)


def test_a_lone_array_is_refused(file):
    with file.open("wb") as stream:
        np.save(stream, np.zeros(3))
    with pytest.raises(DataError, match="one array"):
        organc(file).load(file.parent)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_images": None}, "has no array train_images; it has test_images"),
        ({"val_labels": None}, "has no array val_labels"),
        ({"train_images": np.zeros((4, 28, 28))}, "train_images is float64; images must be uint8"),
        ({"train_images": np.zeros((4, 28, 27), np.uint8)}, r"val_images has images of \(28, 28, 1\)"),
        ({"val_images": np.zeros((2, 28), np.uint8)}, r"val_images is of shape|val_images has the shape"),
        ({"test_images": np.zeros((3,), np.uint8)}, "test_images is uint8 of shape"),
        ({"train_labels": np.zeros((4, 1))}, "train_labels is float64"),
        ({"train_labels": np.zeros((3, 1), np.uint8)}, r"train_labels is uint8 of shape \(3, 1\)"),
        ({"train_labels": np.array([0, 1, -1, 0])}, "train_labels, row 2: .*-1 is negative"),
        ({"train_labels": np.array([0, 1, 2, 0])}, "sample 2 has the label 2, but only the classes 0 to 1"),
    ],
)
def test_wrong_content_with_the_right_md5(file, change, message):
    arrays = {name: array for name, array in (layout() | change).items() if array is not None}
    np.savez(file, **arrays)
    with pytest.raises(DataError, match=message):
        organc(file).load(file.parent)


def test_other_counts_and_shapes_than_declared(file):
    with pytest.raises(DataError, match=r"'train': 4.*'train': 5.* as declared"):
        organc(file, counts=(5, 2, 3)).load(file.parent)
    with pytest.raises(DataError, match=r"\(28, 28, 1\), not \(28, 28, 3\)"):
        organc(file, shape=(28, 28, 3)).load(file.parent)


# --- places ---


@pytest.mark.usefixtures("no_data")
def test_places_are_searched_in_order(file, tmp_path, monkeypatch):
    data, content = organc(file), file.read_bytes()
    env, default, cache = tmp_path / "env", tmp_path / "home/.medmnist", datasets.cache_dir()
    monkeypatch.setenv("FEDBENCH_DATA", str(env))
    for folder in (cache, default, env):
        folder.mkdir(parents=True)
        (folder / file.name).write_bytes(content)
        assert data.locate() == (folder / file.name,)
    assert data.locate(file.parent) == (file,)
    assert data.locate(tmp_path / "nowhere") == (env / file.name,)


@pytest.mark.usefixtures("no_data")
def test_missing_is_one_line_with_file_places_and_mend(file, tmp_path):
    data = organc(file)
    with pytest.raises(DataMissingError) as caught:
        data.load(tmp_path / "nowhere")
    message = str(caught.value)
    assert "\n" not in message
    for part in ("organcmnist.npz", "nowhere", ".medmnist", "cache", "fedbench data fetch organcmnist"):
        assert part in message


def test_medmnist_is_read_without_being_imported_and_leaves_no_folder(tmp_path):
    assert datasets.medmnist_info("bloodmnist")["python_class"] == "BloodMNIST"
    assert not (tmp_path / "home/.medmnist").exists()
    with pytest.raises(SpecError, match="bloodmnist"):
        datasets.medmnist_info("bloodmnits")


# --- download ---


class Server(http.server.ThreadingHTTPServer):
    """A loopback server of one content that breaks off after ``cut`` bytes, ``breaks`` times."""

    def __init__(self, content, *, cut=0, breaks=0, ranges=True, status=None):
        self.content, self.cut, self.breaks, self.ranges, self.status = content, cut, breaks, ranges, status
        self.asked = []
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        wanted = self.headers.get("Range")
        server.asked.append((self.path, wanted))
        if server.status:
            self.send_error(server.status)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and server.ranges else 0
        rest = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(rest)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        self.end_headers()
        if server.breaks:
            server.breaks -= 1
            rest = rest[: server.cut]
        self.wfile.write(rest)

    def log_message(self, *_):
        pass


@pytest.fixture
def serve(monkeypatch):
    """Return a function that starts a server and makes it the mirror."""
    started = []

    def start(content, **how):
        server = Server(content, **how)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        started.append((server, thread))
        monkeypatch.setenv("FEDBENCH_MIRROR", f"http://127.0.0.1:{server.server_port}/files/")
        return server

    yield start
    for server, thread in started:
        server.shutdown()
        thread.join()
        server.server_close()


def cached():
    folder = datasets.cache_dir()
    return sorted(folder.iterdir()) if folder.exists() else []


@pytest.mark.usefixtures("no_data")
def test_fetch_downloads_once_into_the_cache(file, serve):
    data, server = organc(file), serve(file.read_bytes())
    (path,) = data.fetch()
    assert cached() == [path]
    assert path.read_bytes() == file.read_bytes()
    assert data.fetch() == (path,)
    assert server.asked == [("/files/organcmnist.npz", None)]
    assert data.load().inputs.shape == (9, 28, 28, 1)


@pytest.mark.usefixtures("no_data")
def test_fetch_takes_what_is_there(file, serve):
    server = serve(b"")
    assert organc(file).fetch(file.parent) == (file,)
    assert server.asked == []


@pytest.mark.usefixtures("no_data")
def test_fetch_goes_on_where_the_transfer_broke_off(file, serve):
    content = file.read_bytes()
    server = serve(content, cut=3000, breaks=2)
    (path,) = organc(file).fetch()
    assert path.read_bytes() == content
    assert [asked for _, asked in server.asked] == [None, "bytes=3000-", "bytes=6000-"]


@pytest.mark.usefixtures("no_data")
def test_fetch_starts_again_where_the_server_has_no_ranges(file, serve):
    server = serve(file.read_bytes(), cut=3000, breaks=1, ranges=False)
    (path,) = organc(file).fetch()
    assert path.read_bytes() == file.read_bytes()
    assert len(server.asked) == 2


@pytest.mark.usefixtures("no_data")
def test_fetch_gives_up_after_a_bounded_number_of_attempts(file, serve):
    server = serve(file.read_bytes(), cut=10, breaks=1000)
    with pytest.raises(DataMissingError, match="broke off 5 times"):
        organc(file).fetch()
    assert len(server.asked) == 5
    assert cached() == []


@pytest.mark.usefixtures("no_data")
def test_a_wrong_file_is_refused_and_not_kept(file, serve):
    serve(b"another file")
    with pytest.raises(DataError, match="MD5 is not") as caught:
        organc(file).fetch()
    assert "\n" not in str(caught.value)
    assert cached() == []


@pytest.mark.usefixtures("no_data")
@pytest.mark.parametrize(("status", "attempts"), [(404, 1), (503, 5)])
def test_a_refusing_server_is_named_with_its_answer(file, serve, status, attempts):
    server = serve(b"", status=status)
    with pytest.raises(DataMissingError, match=f"answered {status}"):
        organc(file).fetch()
    assert len(server.asked) == attempts
    assert cached() == []


@pytest.mark.usefixtures("no_data")
@pytest.mark.parametrize("mirror", ["http://127.0.0.1:1", "no-url", "ftp://127.0.0.1"])
def test_no_server_is_one_line(file, monkeypatch, mirror):
    monkeypatch.setenv("FEDBENCH_MIRROR", mirror)
    with pytest.raises(DataMissingError) as caught:
        organc(file).fetch()
    message = str(caught.value)
    assert "\n" not in message
    for part in ("organcmnist.npz", ".medmnist", "fedbench data fetch organcmnist", mirror):
        assert part in message


# --- files in the package ---


def test_an_incomplete_installation_is_named():
    data = Embedded(file="gone.npz", md5="0" * 32, classes=("a", "b"), shape=(1,), counts={}, license="-")
    with pytest.raises(DataMissingError, match=r"gone\.npz .*install fedbench again"):
        data.load()


# --- a user's .npz ---


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_npz_of_features_and_sites(tmp_path):
    x = np.array([[1, 2.5], [3, 4], [5, 6]])
    data = NpzFile.of(npz(tmp_path / "a.npz", x=x, y=[1, 0, 1], site=["b", "a", "b"]), classes=["no", "yes"])
    assert data.sites == ("a", "b")
    assert data.counts == {"train": 3, "validation": 0, "test": 0}
    assert data.md5 == md5((tmp_path / "a.npz").read_bytes())
    loaded = data.load()
    assert loaded.inputs.dtype == np.float32
    assert loaded.inputs.tolist() == x.tolist()
    assert loaded.targets.tolist() == [1, 0, 1]
    assert loaded.sites.tolist() == [1, 0, 1]
    assert loaded.train.tolist() == [0, 1, 2]
    assert loaded.test.size == loaded.validation.size == 0


def test_npz_of_images_and_of_official_layout(tmp_path):
    images = np.zeros((4, 32, 20), np.uint8)
    assert NpzFile.of(npz(tmp_path / "a.npz", x=images, y=[0, 1, 2, 0])).shape == (32, 20, 1)
    official = NpzFile.of(npz(tmp_path / "b.npz", **layout(channels=3)))
    assert official.counts == {"train": 4, "validation": 2, "test": 3}
    assert official.classes == ("0", "1")


def test_own_files_are_the_same_wherever_they_lie(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.npz").write_bytes(npz(tmp_path / "a.npz", x=[[1], [2]], y=[0, 1]).read_bytes())
    one, two = (NpzFile.of(tmp_path / folder / "a.npz").resolved() for folder in ("one", "two"))
    assert one == two
    assert str(tmp_path) not in str(one)


def test_own_file_that_changed_is_refused(tmp_path):
    data = NpzFile.of(npz(tmp_path / "a.npz", x=[[1], [2]], y=[0, 1]))
    npz(tmp_path / "a.npz", x=[[1], [3]], y=[0, 1])
    with pytest.raises(DataError, match="changed since"):
        data.load()
    (tmp_path / "a.npz").unlink()
    with pytest.raises(DataMissingError, match=r"a\.npz does not exist"):
        data.load()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": [[1.0]]}, "has no array y; it has x"),
        ({"x": np.zeros((0, 2)), "y": np.zeros(0, int)}, "x is empty"),
        ({"x": [[1.0, 2], [3, np.nan]], "y": [0, 1]}, r"column x\[:, 1\], row 1: nan is not a finite"),
        ({"x": [[1e300], [1]], "y": [0, 1]}, r"column x\[:, 0\], row 0: 1e\+300 is not a finite"),
        ({"x": [[1], [2]], "y": [0, -1]}, "y, row 1: .*-1 is negative"),
        ({"x": [[1], [2]], "y": [0.0, 1.0]}, "y is float64"),
        ({"x": [[1], [2]], "y": [0, 1, 1]}, r"y is int64 of shape \(3,\)"),
        ({"x": [[1], [2]], "y": [0, 0]}, "1 classes, not 2 to 256"),
        ({"x": [[1], [2]], "y": [0, 999]}, "1000 classes, not 2 to 256"),
        ({"x": [1, 2], "y": [0, 1]}, r"x is int64 of shape \(2,\)"),
        ({"x": [["a"], ["b"]], "y": [0, 1]}, "x is <U1"),
        ({"x": [[1], [2]], "y": [0, 1], "site": [1]}, r"site is int64 of shape \(1,\)"),
        ({"x": [[1], [2]], "y": [0, 1], "site": [0.5, 1]}, "site is float64"),
    ],
)
def test_npz_with_bad_values(tmp_path, arrays, message):
    with pytest.raises(DataError, match=rf"a\.npz.*{message}"):
        NpzFile.of(npz(tmp_path / "a.npz", **arrays))


# --- a user's .csv ---


def table(tmp_path, text):
    path = tmp_path / "a.csv"
    path.write_text(text, encoding="utf-8")
    return path


GOOD = "age,site,ill,sex\n50,b,yes,0\n61.5,a,no,1\n70,b,no,1\n"


def test_csv_with_words(tmp_path):
    data = CsvFile.of(table(tmp_path, GOOD), label="ill", site="site")
    assert (data.classes, data.sites, data.features) == (("no", "yes"), ("a", "b"), ("age", "sex"))
    loaded = data.load()
    assert loaded.inputs.tolist() == [[50, 0], [61.5, 1], [70, 1]]
    assert loaded.targets.tolist() == [1, 0, 0]
    assert loaded.sites.tolist() == [1, 0, 1]


def test_csv_with_a_choice_of_columns_a_byte_order_mark_and_blank_end(tmp_path):
    path = table(tmp_path, "\ufeff" + GOOD + "\n\n")
    data = CsvFile.of(path, label="ill", features=["sex"], classes=["yes", "no"])
    assert data.load().inputs.tolist() == [[0], [1], [1]]
    assert data.load().targets.tolist() == [0, 1, 1]
    assert data.load().sites is None


def test_csv_labels_as_numbers_sort_as_numbers_or_get_names(tmp_path):
    path = table(tmp_path, "x,y\n1,10\n2,9\n")
    assert CsvFile.of(path, label="y").classes == ("9", "10")
    path = table(tmp_path, "x,y\n1,1\n2,0\n")
    assert CsvFile.of(path, label="y", classes=["no", "yes"]).load().targets.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("age,site,ill\n", "is empty"),
        ("age,site,disease\n1,a,0\n", "has no column 'ill'; it has age, site, disease"),
        ("age,age,ill,site\n1,2,0,a\n", "the column 'age' twice"),
        ("age,site,ill\n1,a\n", "row 2 has 2 cells, but the header has 3"),
        ("age,site,ill\n1,a,0\nold,a,1\n", "column age, row 3: 'old' is not a number"),
        ("age,site,ill\n1,a,0\n,a,1\n", "column age, row 3: nan is not a finite"),
        ("age,site,ill\n1,a,0\ninf,a,1\n", "column age, row 3: inf is not a finite"),
        ("age,site,ill\n1,a,0\n2,a,\n", "column ill, row 3: the value is missing"),
        ("age,site,ill\n1,a,0\n2,a,-1\n", "column ill, row 3: -1 is negative"),
        ("age,site,ill\n1,a,0\n2,,1\n", "column site, row 3: the value is missing"),
        ("age,site,ill\n1,a,0\n2,a,0\n", "1 classes, not 2 to 256"),
        ("site,ill\na,0\nb,1\n", "needs a feature column"),
        ('age,site,ill\n1,a,"0\n', "cannot be read"),
    ],
)
def test_csv_with_bad_values(tmp_path, text, message):
    with pytest.raises(DataError, match=rf"a\.csv.*{message}"):
        CsvFile.of(table(tmp_path, text), label="ill", site="site")


def test_csv_label_that_is_none_of_the_declared_classes(tmp_path):
    with pytest.raises(DataError, match=r"column ill, row 2: 'yes' is none of no, maybe"):
        CsvFile.of(table(tmp_path, GOOD), label="ill", features=["age"], classes=["no", "maybe"])


def test_csv_in_another_encoding(tmp_path):
    (tmp_path / "a.csv").write_bytes("größe,y\n1,0\n2,1\n".encode("latin-1"))
    with pytest.raises(DataError, match="UTF-8"):
        CsvFile.of(tmp_path / "a.csv", label="y")


def test_own_file_that_is_not_there(tmp_path):
    with pytest.raises(DataMissingError, match=r"a\.csv does not exist"):
        CsvFile.of(tmp_path / "a.csv", label="y")
    with pytest.raises(DataMissingError, match="does not exist"):
        NpzFile.of(Path(tmp_path))
