"""Folders, tables and Parquet files as people have them."""

import io
import json
import os
import pickle
import shutil
import struct
import unicodedata
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torchvision.transforms import ToTensor

from fmnist import CSV, FashionMNISTDataModule, ImageFolder, Parquet, UserError
from fmnist.data.read import read_picture


def draw(path, seed, shade=200):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 40, (30, 30))
    Image.fromarray((shade + noise).astype(np.uint8)).save(path)


def fill(folder, count, start=0):
    for number in range(start, start + count):
        draw(folder / f"{number}.png", number)


@pytest.fixture
def folder(tmp_path):
    """Two classes of twenty pictures. Returns the folder."""
    fill(tmp_path / "sets/bags", 20)
    fill(tmp_path / "sets/shoes", 20, start=20)
    return tmp_path / "sets"


@pytest.mark.parametrize("name", [".ipynb_checkpoints", "@eaDir", "__MACOSX", "$RECYCLE.BIN"])
def test_what_systems_leave_is_no_class_and_no_picture(folder, name, capsys):
    fill(folder / name, 3)
    fill(folder / "bags" / name, 3)
    (folder / "bags" / "._1.png").write_bytes(b"\0\5\26\7")
    (folder / "bags" / "Thumbs.db").write_bytes(b"x")
    source = ImageFolder(str(folder), test_size=0)
    source.prepare()
    assert (source.class_names, len(source.load(train=True)[1])) == (["bags", "shoes"], 40)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "names", [("Train", "Test", "Val"), ("training", "TESTING", "validation"), ("train", "test", "valid")]
)
def test_parts_in_any_case_are_found(tmp_path, names):
    for part, count in zip(names, (10, 4, 3), strict=True):
        for label in ("train", "bags"):  # a class may be called like a part
            fill(tmp_path / part / label, count)
    source = ImageFolder(str(tmp_path))
    assert source.class_names == ["bags", "train"]
    assert [len(part[1]) for part in (source.load(True), source.load(False), source.load_val())] == [20, 8, 6]
    data = FashionMNISTDataModule(source, batch_size=10)
    data.setup()
    assert [len(part) for part in (data.train_set, data.test_set, data.val_set)] == [20, 8, 6]


def test_what_is_not_read_is_named(folder, capsys):
    for name in ("1.HEIC", "2.heic", "notes.txt"):
        (folder / "bags" / name).write_bytes(b"x")
    shutil.move(folder / "bags/1.png", folder / "bags/1.jfif")
    draw(folder / "beside.png", 0)
    source = ImageFolder(str(folder), test_size=0)
    for _ in range(2):
        source.prepare()
    kinds = "2 .heic, 1 .png in no class, 1 .txt"
    line = f"note: {folder} has files that are not read, by their ending: {kinds}\n"
    assert capsys.readouterr().err == line, "once, however often it is prepared"
    assert len(source.load(True)[1]) == 40


def test_broken_pictures_are_all_named_or_left_out(folder, capsys):
    for number in range(12):
        (folder / f"bags/{number}.png").write_bytes(b"broken")
    source = ImageFolder(str(folder))
    with pytest.raises(UserError, match=r"0\.png is not a picture.*; and 2 more: .*--data\.source\.skip_broken true"):
        source.prepare()
    source = ImageFolder(str(folder), skip_broken=True)
    source.prepare()
    assert "note: 12 of 40 pictures cannot be read and are left out" in capsys.readouterr().err
    places = source.paths(True) + source.paths(False)
    assert len(places) == 28
    assert not [place for place in places if place.endswith(("/0.png", "/11.png"))]
    again = ImageFolder(str(folder), skip_broken=True)
    assert torch.equal(again.load(True)[0][:], source.load(True)[0][:])
    again.load(False)
    assert capsys.readouterr().err.count("note: 12 of 40") == 1, "from the cache too, and once"


def test_what_is_left_out_is_said_by_one_process(folder, capsys, monkeypatch):
    (folder / "bags/0.png").write_bytes(b"broken")
    monkeypatch.setenv("LOCAL_RANK", "1")
    ImageFolder(str(folder), skip_broken=True).load(True)
    assert capsys.readouterr().err == ""


def test_a_class_of_which_nothing_can_be_read_is_refused(folder):
    for number in range(20):
        (folder / f"bags/{number}.png").write_bytes(b"broken")
    with pytest.raises(UserError, match="of these classes not one picture can be read: bags"):
        ImageFolder(str(folder), skip_broken=True).prepare()


def test_pictures_behind_links_are_read_once(folder, tmp_path):
    top = tmp_path / "a [b] ~c"
    for label, number in (("bags", 0), ("shoes", 20)):
        (top / label / "inner").mkdir(parents=True)
        (top / label / "all").symlink_to(folder / label)
        (top / label / "one.png").symlink_to(folder / label / f"{number}.png")
        (top / label / "inner/round").symlink_to(top / label)
    source = ImageFolder(str(top), test_size=0)
    assert source.load(True)[1].bincount().tolist() == [21, 21]


def test_one_class_is_refused_and_the_folder_below_is_named(folder, tmp_path):
    with pytest.raises(UserError, match=r"holds one folder only.*--data\.source\.folder .*sets"):
        ImageFolder(str(tmp_path)).prepare()
    shutil.rmtree(folder / "shoes")
    with pytest.raises(UserError, match="there is one class only, bags"):
        ImageFolder(str(folder)).prepare()


def test_class_names_of_any_kind(tmp_path):
    name = "Schürze"
    fill(tmp_path / unicodedata.normalize("NFC", name), 3)
    fill(tmp_path / unicodedata.normalize("NFD", name), 3, start=3)
    for other in ("yes", "1e3", "裤子"):
        fill(tmp_path / other, 3)
    draw(tmp_path / os.fsdecode(b"caf\xe9") / "0.png", 0)
    source = ImageFolder(str(tmp_path), test_size=0)
    assert source.class_names == ["1e3", name, r"caf\xe9", "yes", "裤子"]
    assert source.load(True)[1].bincount().tolist() == [3, 6, 1, 3, 3]
    assert r"caf\xe9/0.png" in "\n".join(source.paths(True)).encode().decode(), "a name that can be written"


TABLES = {
    "semicolons and BOM": ("\ufefffile;label\r\n", "{};{}\r\n", "utf-8"),
    "tabs": ("file\tlabel\n", "{}\t{}\n", "utf-8"),
    "sep=": ("sep=;\r\nfile;label\r\n", "{};{}\r\n", "utf-8"),
    "UTF-16": ("file\tlabel\r\n", "{}\t{}\r\n", "utf-16"),
    "cp1252": ("file,label\r\n", "{},{}\r\n", "cp1252"),
    "an index": (",file,label\n", "7,{},{}\n", "utf-8"),
    "a comma too many": ("file,label\n", "{},{},\n", "utf-8"),
    "empty rows": ("file,label\n", ",\n{},{}\n,\n", "utf-8"),
    "the other way round": ("label,file\n", "{1},{0}\n", "utf-8"),
    "quotes": ('"file","label"\r\n', '"{}" , "{}"\r\n', "utf-8"),
    "more columns": ("id,file,label,price\n", "1,{},{},2.50\n", "utf-8"),
    "no header": ("", "{},{}\n", "utf-8"),
    "carriage returns": ("file,label\r", "{},{}\r", "utf-8"),
    "blanks": ("", "{}  {}\n", "utf-8"),
    "names in another form": ("file,label\n", "{},{}\n", "decomposed"),
}


@pytest.mark.parametrize("table", TABLES)
def test_tables_as_spreadsheets_write_them(folder, tmp_path, table):
    head, row, encoding = TABLES[table]
    rows = [(f"bags/{n}.png", "Schürze") for n in range(20)] + [(f"shoes/{n}.png", "shoe") for n in range(20, 40)]
    text = head + "".join(row.format(*pair) for pair in rows)
    if encoding == "decomposed":
        text, encoding = unicodedata.normalize("NFD", text), "utf-8"
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    source = CSV(str(tmp_path / "t.csv"), str(folder), test_size=0)
    assert source.class_names == ["Schürze", "shoe"]
    assert source.load(True)[1].tolist() == [0] * 20 + [1] * 20


def test_line_separators_of_unicode_end_no_row(folder, tmp_path):
    rows = "".join(f'bags/{n}.png,"a\u2028b\x85\x0c"\n' for n in range(10)) + "bags/10.png,c\n"
    (tmp_path / "t.csv").write_text(rows, encoding="utf-8")
    source = CSV(str(tmp_path / "t.csv"), str(folder), test_size=0)
    assert source.load(True)[1].tolist() == [0] * 10 + [1]
    assert source.class_names == ["a\u2028b", "c"]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_are_compared_in_one_form_of_unicode(tmp_path, form):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    for number, name in enumerate(("é", "ü")):
        fill(tmp_path / unicodedata.normalize(form, name), 4, start=10 * number)
    files = [f"{name}/{number}.png" for name, start in (("é", 0), ("ü", 10)) for number in range(start, start + 4)]
    rows = "".join(f"{file},{file[0]}\n" for file in files)
    (tmp_path / "t.csv").write_text(unicodedata.normalize(other, "Fotó,Größe\n" + rows), encoding="utf-8")
    columns = {key: unicodedata.normalize(form, name) for key, name in (("file", "Fotó"), ("label", "Größe"))}
    named = {f"{key}_column": name for key, name in columns.items()}
    names = [unicodedata.normalize(form, name) for name in "éü"]
    source = CSV(str(tmp_path / "t.csv"), str(tmp_path), label_names=names, test_size=0, **named)
    assert source.load(True)[1].tolist() == [0] * 4 + [1] * 4
    assert source.class_names == ["é", "ü"]
    data = FashionMNISTDataModule(source, class_map={unicodedata.normalize(other, "é"): "x"})
    assert data.class_names == ["x", "ü"]
    assert ImageFolder(str(tmp_path)).class_names == ["é", "ü"]


def test_labels_that_lie_beside_the_pictures_are_named(tmp_path):
    for part in ("train", "test"):
        fill(tmp_path / "hub" / part, 3)
    (tmp_path / "hub/train/metadata.jsonl").write_text('{"file_name": "0.png", "label": "a"}\n' * 3)
    give = "--data.source CSV --data.source.annotations_file .*metadata.jsonl --data.source.img_dir .*hub/train$"
    with pytest.raises(UserError, match=give):
        ImageFolder(str(tmp_path / "hub")).prepare()
    with pytest.raises(UserError, match=r"metadata\.jsonl is JSON: write it as a table with commas"):
        CSV(str(tmp_path / "hub/train/metadata.jsonl"), str(tmp_path / "hub/train")).prepare()
    fill(tmp_path / "parts/valid/bags", 3)
    fill(tmp_path / "parts/test/bags", 3)
    with pytest.raises(UserError, match="has no training part: call one of its folders train"):
        ImageFolder(str(tmp_path / "parts")).prepare()


def test_columns_that_nobody_can_guess_are_asked_for(folder, tmp_path):
    rows = "".join(f"bags/{n}.png,{n % 2}.0,x\n" for n in range(20))
    (tmp_path / "t.csv").write_text("photo,kind,note\n" + rows)
    with pytest.raises(UserError, match=r"its columns are photo, kind, note; name two of them with --data\.source"):
        CSV(str(tmp_path / "t.csv"), str(folder)).prepare()
    source = CSV(str(tmp_path / "t.csv"), str(folder), file_column="photo", label_column="kind")
    assert source.class_names == ["0", "1"]
    (tmp_path / "t.csv").write_text("file,label\n" + "".join(f"bags/{n}.png,{n % 2}\n" for n in range(20)))
    with pytest.raises(UserError, match=r"t\.csv has no column kind; its first line is file, label"):
        CSV(str(tmp_path / "t.csv"), str(folder), label_column="kind").prepare()
    (tmp_path / "t.csv").write_text("\n")
    with pytest.raises(UserError, match=r"t\.csv is empty"):
        CSV(str(tmp_path / "t.csv"), str(folder)).prepare()


@pytest.mark.parametrize("columns", [("img", "fine_label"), ("image", "labels"), ("photo", "kind")])
def test_columns_of_parquet_are_found_or_named(tmp_path, columns, folder):
    image, label = columns
    contents = [(folder / f"bags/{number}.png").read_bytes() for number in range(20)]
    table = pa.table(
        {image: [{"bytes": content, "path": None} for content in contents], label: [n % 2 for n in range(20)]}
    )
    features = {image: {"_type": "Image"}, label: {"_type": "ClassLabel", "names": ["bag", "shoe"]}}
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(about), tmp_path / "t.parquet")
    assert Parquet(str(tmp_path / "t.parquet")).class_names == ["bag", "shoe"]
    pq.write_table(table, tmp_path / "t.parquet")
    named = {"image_column": image, "label_column": label} if image == "photo" else {}
    assert Parquet(str(tmp_path / "t.parquet"), **named).class_names == ["0", "1"]


def test_parts_of_parquet_in_any_case(tmp_path, folder):
    contents = [(folder / f"bags/{number}.png").read_bytes() for number in range(20)]
    for name, count in (("Train-0", 20), ("Validation", 6), ("TEST", 4)):
        rows = {"image": [{"bytes": content} for content in contents[:count]], "label": [n % 2 for n in range(count)]}
        pq.write_table(pa.table(rows), tmp_path / f"{name}.parquet")
    source = Parquet(str(tmp_path))
    assert [len(part[1]) for part in (source.load(True), source.load(False), source.load_val())] == [20, 4, 6]
    assert source.paths(False)[3] == f"{tmp_path / 'TEST.parquet'} row 4"


def write_parquet(path, count, start=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    contents = []
    for number in range(start, start + count):
        file = io.BytesIO()
        Image.new("L", (28, 28), number + 1).save(file, "PNG")
        contents.append(file.getvalue())
    pq.write_table(pa.table({"image": contents, "label": [number % 2 for number in range(count)]}), path)


LAYOUTS = {
    "the data set's own": ("fashion_mnist/{part}-00000-of-00001.parquet", ""),
    "converted by the Hub": ("default/{part}/0000.parquet", ""),
    "folders of parts": ("{part}/part-0.parquet", ""),
    "data": ("data/{part}-00000-of-00001.parquet", ""),
    "the folder itself": ("x/{part}.parquet", "x"),
    "another word": ("mnist-{part}.parquet", ""),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_the_hub(tmp_path, layout):
    place, folder = LAYOUTS[layout]
    for number, (part, count) in enumerate((("train", 12), ("test", 6), ("validation", 4))):
        write_parquet(tmp_path / place.format(part=part), count, start=20 * number)
    source = Parquet(str(tmp_path / folder))
    assert [len(part[1]) for part in (source.load(True), source.load(False), source.load_val())] == [12, 6, 4]


def test_one_data_set_of_several_is_named(tmp_path, capsys):
    for name in ("a [1]", "b"):
        write_parquet(tmp_path / name / "train-0.parquet", 10)
        write_parquet(tmp_path / name / "test-0.parquet", 4, start=20)
    with pytest.raises(UserError, match=r"holds several data sets: give one of .*a \[1\], .*b"):
        Parquet(str(tmp_path)).load(True)
    for pattern in ("a [1]/train*.parquet", "a [1]/**/train*", "*/train-0.parquet", "**/train*.parquet"):
        source = Parquet(str(tmp_path / pattern), test_size=0)
        assert len(source.load(True)[1]) == (20 if pattern.startswith("*") else 10)
    capsys.readouterr()
    Parquet(str(tmp_path / "b/train-0.parquet")).prepare()
    assert f"note: {tmp_path / 'b'} has a test part as well: give this folder to test on it" in capsys.readouterr().err


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


TEXT = b"k\0\0" + zlib.compress(b"y" * 3_000_000)  # more than Pillow takes
CHUNKS = {
    "a large text": chunk(b"zTXt", TEXT),
    "a text with a wrong sum": chunk(b"tEXt", b"k\0v")[:-4] + b"\0\0\0\0",
    "a large profile": chunk(b"iCCP", TEXT),
    "a size that is cut": chunk(b"pHYs", b"1"),
}


@pytest.mark.parametrize("place", [33, -12])
@pytest.mark.parametrize("odd", CHUNKS)
def test_odd_metadata_damage_no_png(odd, place):
    picture = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8)).save(picture, "PNG")
    plain = picture.getvalue()
    found = read_picture(io.BytesIO(plain[:place] + CHUNKS[odd] + plain[place:]))
    assert torch.equal(found.image, read_picture(io.BytesIO(plain)).image)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_odd_exif_damages_nothing_and_still_turns(form):
    pixels = np.zeros((60, 40, 3), np.uint8)
    pixels[8:20, 8:32] = 255
    entries = struct.pack("<HHIHH", 0x112, 3, 1, 6, 0), struct.pack("<HHII", 0x100, 12, 1, 8)  # turned; an odd double
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + b"".join(entries[::-1]) + bytes(4)
    odd, good = io.BytesIO(), io.BytesIO()
    turned = Image.Exif()
    turned[0x112] = 6
    Image.fromarray(pixels).save(odd, form, exif=exif)
    Image.fromarray(pixels).save(good, form, exif=turned)
    assert torch.equal(read_picture(odd).image, read_picture(good).image)
    junk = io.BytesIO()
    Image.fromarray(pixels).save(junk, form, exif=b"Exif\0\0junk")
    assert read_picture(junk).image.any()


def test_a_transform_is_blamed_for_what_it_does(folder, tmp_path):
    (tmp_path / "t.csv").write_text("".join(f"bags/{n}.png,{n % 2}\n" for n in range(20)))

    def images(transform):
        return CSV(str(tmp_path / "t.csv"), str(folder), transform=transform, test_size=0).load(True)[0][:]

    assert torch.equal(images(ToTensor()), images(None))
    with pytest.raises(UserError, match=r"transform .*lambda.* gave a NoneType, which is not a picture"):
        images(lambda picture: None)
    for wrong in (torch.zeros(0, 28, 28), np.array([None]), torch.zeros(28, 28, dtype=torch.complex64)):
        with pytest.raises(UserError, match=r"transform .*lambda.* gave a (Tensor|ndarray) of shape"):
            images(lambda picture, wrong=wrong: wrong)
    with pytest.raises(UserError, match=r"transform .*lambda.* failed: ZeroDivisionError"):
        images(lambda picture: 1 / 0)


def test_more_pictures_leave_each_where_it_was(folder):
    before = ImageFolder(str(folder))
    first = {part: {*before.paths(part)} for part in (True, False)}
    assert len(first[True]) + len(first[False]) == 40
    shutil.copy(folder / "bags/0.png", folder / "bags/copy.png")
    fill(folder / "bags", 30, start=100)
    fill(folder / "caps", 2, start=200)
    after = ImageFolder(str(folder))
    second = {part: {*after.paths(part)} for part in (True, False)}
    moved = (first[True] & second[False]) | (first[False] & second[True])
    assert len(moved) <= 2, "but for a class that would have been missing"
    together = {str(folder / "bags/0.png"), str(folder / "bags/copy.png")}
    assert together <= second[True] or together <= second[False]
    for part in (True, False):
        assert after.load(part)[1].unique().tolist() == [0, 1, 2], "every class is in each part"


def test_classes_of_one_picture_are_trained_on(tmp_path):
    for number in range(12):
        fill(tmp_path / f"{number}", 1, start=number)
    data = FashionMNISTDataModule(ImageFolder(str(tmp_path), test_size=0), val_size=0.1)
    with pytest.raises(
        UserError, match=r"val_size 0\.1 of 12 images leaves none .*each class has one image.*give --data.val_size 0"
    ):
        data.setup("fit")
    with pytest.raises(UserError, match=r"test_size 0\.2 of 12 pictures leaves none to test on: give a test part"):
        ImageFolder(str(tmp_path)).load(False)
    fill(tmp_path / "0", 2, start=20)
    data.source = ImageFolder(str(tmp_path), test_size=0)
    data.setup("fit")
    assert data.val_set.labels.tolist() == [0]


def test_pictures_of_two_labels_and_small_validation_parts_are_named(folder, tmp_path, monkeypatch, cli):
    monkeypatch.chdir(tmp_path)
    shutil.copy(folder / "bags/0.png", folder / "shoes/copy.png")
    words = ("--data.source=ImageFolder", f"--data.source.folder={folder}", "--data.val_size=0.1")
    code, out, err = cli("prepare", *words)
    assert (code, err) == (0, "")
    assert f"warning: 1 pictures have two labels: {folder}/bags/0.png (bags), {folder}/shoes/copy.png (shoes)" in out
    assert "warning: few validation images of some classes (bags " in out
    _, out, _ = cli("fit", *words, "--data.batch_size=4", "--trainer.max_epochs=1", "--model.hidden_dims=[8]")
    assert "warning: few validation images of some classes (bags " in out
    assert "trained on" not in cli("test")[1]
    _, out, _ = cli("prepare", *words, '--data.class_map={"bags": "x", "shoes": "x"}', "--data.val_size=0.5")
    assert "warning" not in out


def test_images_that_were_trained_on_are_counted(folder, tmp_path, monkeypatch, cli):
    monkeypatch.chdir(tmp_path)
    words = (
        "--data.source=ImageFolder",
        f"--data.source.folder={folder}",
        "--data.val_size=0.2",
        "--trainer.max_epochs=1",
    )
    assert cli("fit", *words, "--model.hidden_dims=[8]", "--data.batch_size=8")[0] == 0
    _, out, _ = cli("test")
    assert "trained on" not in out
    _, out, _ = cli("test", "--data.source.test_size=0.9")
    assert "images were in the training set: too optimistic" in out
    _, out, _ = cli("validate", "--data.split_seed=1")
    assert "note: the split of the data is" in out
    assert "validation images were in the training set" in out
    _, out, _ = cli("fit", "--ckpt_path", "last", "--data.split_seed=1", "--trainer.max_epochs=2")
    assert "note: the split of the data is" in out
    assert "validation images were in the training set" in out


def test_a_source_can_be_sent_to_another_process(folder):
    source = ImageFolder(str(folder))
    images, _ = source.load(True)
    assert torch.equal(pickle.loads(pickle.dumps(source)).load(True)[0][:], images[:])
