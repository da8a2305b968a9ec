"""Tables and folders: values stay as they are written, and no file disappears by its name."""

import json

import pytest
from PIL import Image

import mm
from published import CAPTIONS, write_metadata, write_texts, written


def lines(path, *objects):
    return written(path, "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in objects))


def test_texts_that_look_like_other_types_stay_texts(folder):
    names = ["2020-01-01", "None", "nan", "000123", "True", "N/A", "1e5"]
    table = "image,suffix\n" + "".join(f"kite.png,{name}\n" for name in names)
    (sample,) = mm.load_data(written(folder / "a.csv", table), format="table")
    assert sample["suffix"] == names
    (sample,) = mm.load_data(lines(folder / "a.jsonl", *({"image": "kite.png", "suffix": name} for name in names)))
    assert sample["suffix"] == names


def test_json_lines_end_at_line_feeds_only(folder):
    caption = "a red\u2028dog\u0085here"
    path = lines(folder / "a.jsonl", {"image": "kite.png", "suffix": caption})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"\n")
    assert mm.load_data(path)[0]["suffix"] == caption


def test_a_late_key_of_a_table_is_kept(folder):
    rows = [{"image": "kite.png", "suffix": f"c{i}", **({"note": "late"} if i == 9 else {})} for i in range(10)]
    data = mm.load_data(lines(folder / "a.jsonl", *rows), group=False)
    assert data[9]["note"] == "late" and len(data) == 10


def test_columns_say_what_is_what_and_unknown_ones_get_a_hint(folder):
    path = lines(folder / "a.jsonl", {"photo": "kite.png", "sentence": "a kite", "width": 8})
    with pytest.raises(mm.DataError, match="--columns photo=image,sentence=suffix"):
        mm.load_data(path)
    (sample,) = mm.load_data(path, columns={"photo": "image", "sentence": "suffix", "width": None})
    assert sample["suffix"] == "a kite" and "width" not in sample
    with pytest.raises(mm.DataError, match="colour"):
        mm.load_data(path, columns={"colour": "suffix"})


@pytest.mark.parametrize(
    ("line", "held"),
    [
        ({"file_name": "kite.png", "caption": "a kite"}, {"suffix": "a kite"}),
        ({"path": "kite.png", "Question": "what?", "Answer": "a kite"}, {"text": "what?", "suffix": "a kite"}),
        ({"image": "kite.png", "captions": ["a kite", "two"]}, {"suffix": ["a kite", "two"]}),
        ({"image": "kite.png", "suffix": "a kite", "caption": "other"}, {"suffix": "a kite", "caption": "other"}),
        ({"image": "kite.png", "label": 3, "file": "7"}, {"label": 3, "file": "7"}),
    ],
)
def test_usual_names_of_columns_are_known(folder, line, held):
    (sample,) = mm.load_data(lines(folder / "a.jsonl", line))
    assert str(sample["image"]).endswith("kite.png") and held.items() <= sample.items()


def test_the_path_of_a_text_stays_aside(folder):
    (sample,) = mm.load_data(lines(folder / "a.jsonl", {"path": "notes/a.txt", "text": "good", "label": 1}))
    assert sample["path"] == "notes/a.txt" and not {"image", "video", "audio"} & sample.keys()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            {"image": "kite.png", "caption": "a", "answer": "b"},
            r"each of the columns \['caption', 'answer'\] could be",
        ),
        ({"file": "kite.png", "path": "kite.png", "suffix": "a"}, "could be the file; say which: .* file=image"),
        ({"file_name": "kite.txt", "suffix": "a"}, "kite.txt' is no picture, video or sound"),
    ],
)
def test_columns_that_could_be_two_things_are_told(folder, line, told):
    with pytest.raises(mm.DataError, match=told):
        mm.load_data(lines(folder / "a.jsonl", line))


def test_a_line_without_a_text_is_told_by_its_number_and_the_others_are_read(folder):
    path = lines(folder / "a.jsonl", {"image": "kite.png"}, {"image": "beach.jpg", "caption": "a beach"})
    with pytest.raises(mm.DataError, match="a.jsonl, line 1: it holds image, and no text, suffix or label"):
        mm.load_data(path)
    with pytest.warns(UserWarning, match="1 row left out; a.jsonl, line 1"):
        (sample,) = mm.load_data(path, on_error="skip")
    assert sample["suffix"] == "a beach"
    with pytest.raises(mm.DataError, match=r"no line holds a text or a label .*; the columns are \['image', 'size'\]"):
        mm.load_data(lines(folder / "a.jsonl", {"image": "kite.png"}, {"image": "beach.jpg", "size": 3}))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"columns": "caption=suffix"}, "columns is a dict"),
        ({"columns": ["caption"]}, "columns is a dict"),
        ({"media": 3}, "media is the path of a folder; got int"),
        ({"group": "no"}, "group='no'; accepted are True or False"),
        ({"format": "csv"}, "format='csv'; accepted are"),
        ({"on_error": None}, "on_error=None; accepted are"),
    ],
)
def test_options_of_another_type_are_told(folder, options, told):
    path = lines(folder / "a.jsonl", {"image": "kite.png", "suffix": "a kite"})
    with pytest.raises((TypeError, ValueError), match=told):
        mm.load_data(path, **options)
    for settings in ({"shuffle": -1}, {"seed": "a"}, {"columns": ["a"]}, {"on_error": "no"}, {"dots": 3}):
        with pytest.raises((TypeError, ValueError), match=next(iter(settings))):
            mm.MMShards(str(folder / "a.tar"), **settings)


def test_a_table_of_captions_in_a_list_makes_one_sample(folder):
    (sample,) = mm.load_data(lines(folder / "a.jsonl", {"image": "kite.png", "suffix": ["one", "two"]}))
    assert sample["suffix"] == ["one", "two"]


def test_class_names_are_numbered_in_their_order(folder):
    table = "image,label\nkite.png,b\nbeach.jpg,a\neye-test.png,b\n"
    data = mm.load_data(written(folder / "a.csv", table))
    assert [sample["label"] for sample in data] == [1, 0, 1] and data.label_names == ["a", "b"]
    table = "image,label\nkite.png,3\nbeach.jpg,0\n"
    data = mm.load_data(written(folder / "b.csv", table))
    assert [sample["label"] for sample in data] == [3, 0] and data.label_names is None
    with pytest.raises(mm.DataError, match="one kind"):
        mm.load_data(written(folder / "c.csv", "image,label\nkite.png,3\nbeach.jpg,dog\n"))


def test_tabular_data_is_refused_in_words(folder):
    path = lines(folder / "a.jsonl", {"vitals": [1, 2], "image": "kite.png", "suffix": "x"})
    with pytest.raises(mm.DataError, match="modality"):
        mm.load_data(path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", '{"image": "kite.png", "suffix": "x"}\n{"image"\n', "line 2"),
        ("a.jsonl", "[1]\n", "line 1"),
        ("a.csv", "image,suffix\nkite.png,a,b\n", "line 2"),
        ("a.csv", 'image,suffix\nkite.png,"a\n', "a.csv"),
        ("a.csv", "image,image\nkite.png,a\n", "twice"),
        ("a.jsonl", "", "no sample"),
        ("a.xml", "<a/>", "format="),
    ],
)
def test_broken_tables_name_the_line(folder, name, content, words):
    with pytest.raises(mm.DataError, match=words):
        mm.load_data(written(folder / name, content))


def test_no_word_in_a_name_hides_a_file(folder):
    assert len(mm.load_data(write_metadata(folder))) == len(CAPTIONS)  # eye-test.png, "train station.png"
    (folder / "metadata.jsonl").unlink()
    assert len(mm.load_data(write_texts(folder))) == len(CAPTIONS)


def test_pictures_that_the_metadata_do_not_name_are_reported(folder):
    held = (write_metadata(folder) / "metadata.jsonl").read_text().splitlines()
    written(folder / "metadata.jsonl", "\n".join(held[:-1]))
    assert mm.load_data(folder).report.unused == ["train station.png"]


def test_folders_of_classes_and_splits_by_whole_names(tmp_path):
    for name in ("train/cat/a.png", "train/dog/b.png", "contest/cat/c.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    data = mm.load_data(tmp_path, split="train")
    assert [(s["id"], s["label"]) for s in data] == [("cat/a.png", 0), ("dog/b.png", 1)]
    assert data.label_names == ["cat", "dog"]
    with pytest.raises(ValueError, match="contest"):
        mm.load_data(tmp_path, split="test")


def test_a_folder_with_annotations_names_them_and_their_media_are_found_beside_them(tmp_path):
    for folder in ("annotations", "train", "side/cat"):
        (tmp_path / folder).mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "train" / "1.png")
    found = {"images": [{"id": 1, "file_name": "1.png"}], "annotations": [{"image_id": 1, "bbox": [0, 0, 1, 1]}]}
    boxes, captions = (tmp_path / "annotations" / f"{name}.json" for name in ("boxes", "captions"))
    boxes.write_text(json.dumps(found))
    captions.write_text(json.dumps({**found, "annotations": [{"image_id": 1, "caption": "a dot"}]}))
    with pytest.raises(mm.DataError, match=r"annotations.captions.json, annotations.boxes.json.*media="):
        mm.load_data(tmp_path)
    with pytest.raises(mm.DataError, match=r"but in .*train: give that as media"):
        mm.load_data(captions)
    with pytest.raises(mm.DataError, match="no annotation has a caption"):
        mm.load_data(boxes, tmp_path)
    assert len(mm.load_data(captions, tmp_path)) == 1
    Image.new("RGB", (4, 4)).save(tmp_path / "side" / "cat" / "a.png")
    (tmp_path / "side" / "cat" / "a.json").write_text("{}")  # of that picture alone
    assert mm.load_data(tmp_path / "side").label_names == ["cat"]


def test_a_folder_that_says_nothing_raises(pictures, tmp_path):
    with pytest.raises(mm.DataError, match="metadata"):
        mm.load_data(pictures.parent / pictures.name, format="folder", on_error="skip")
    with pytest.raises(mm.DataError, match="no pictures"):
        mm.load_data(tmp_path)


def test_sounds_and_videos_go_to_their_columns(tmp_path):
    for name in ("a.wav", "b.mp4"):
        (tmp_path / name).write_bytes(b"x")
    lines(
        tmp_path / "metadata.jsonl", {"file_name": "a.wav", "suffix": "hum"}, {"file_name": "b.mp4", "suffix": "run"}
    )
    assert [sorted(set(s) - {"id", "suffix"}) for s in mm.load_data(tmp_path)] == [["audio"], ["video"]]


def dicom(path, values, kind="MONOCHROME2", frames=1, **fields):
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3"
    file = Dataset()
    file.file_meta = meta
    file.Rows, file.Columns = values.shape[-2:]
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, kind
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 16, 15, 1
    if frames > 1:
        file.NumberOfFrames = frames
    for name, value in fields.items():
        setattr(file, name, value)
    file.PixelData = values.astype("<i2").tobytes()
    file.save_as(path, enforce_file_format=True)
    return path


def test_dicom_follows_window_slope_and_photometric(tmp_path):
    import numpy as np

    values = np.array([[0, 1024], [1064, 4000]])  # HU -1024, 0, 40, 2976
    settings = {"RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": 40, "WindowWidth": 400}
    path = dicom(tmp_path / "a.dcm", values, **settings)
    scaled = [0, (0 - 39.5) / 399 + 0.5, (40 - 39.5) / 399 + 0.5, 1]  # PS3.3 C.11.2.1.2
    lines(tmp_path / "a.jsonl", {"image": "a.dcm", "suffix": "a scan"})
    picture = mm.load_data(tmp_path / "a.jsonl")[0]["image"]
    assert np.abs(np.asarray(picture)[..., 0].ravel() - 255 * np.array(scaled)).max() <= 0.5
    inverse = dicom(tmp_path / "a.dcm", values, "MONOCHROME1", **settings)
    turned = np.asarray(mm.load_data(tmp_path / "a.jsonl")[0]["image"])[..., 0].ravel()
    assert inverse == path and np.abs(turned - (255 - 255 * np.array(scaled))).max() <= 0.5


def test_dicom_of_several_frames_wants_to_know_which(tmp_path):
    import numpy as np

    from mm.data.dicom import read_dicom

    path = dicom(tmp_path / "a.dcm", np.stack([np.zeros((2, 2)), np.arange(4).reshape(2, 2)]), frames=2)
    with pytest.raises(mm.DataError, match="2 frames"):
        read_dicom(path)
    assert np.asarray(read_dicom(path, frame=1))[..., 0].ravel().tolist() == [0, 85, 170, 255]
    with pytest.raises(mm.DataError, match="odd.dcm"):
        read_dicom(written(tmp_path / "odd.dcm", "no dicom"))
