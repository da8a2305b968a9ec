"""An index of files: brought up to date by content, killed and gone on with, searched exactly in blocks."""

import json
import os
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from PIL import Image

from mm import MMForImageTextRetrieval, MMIndex, embed_files
from mm.searching import build
from mm.searching import index as index_file
from mm.searching.exact import best_in_blocks
from mm.searching.rerank import rerank
from mm.searching.sheet import draw_sheet
from mm.weights.model_hash import hash_of_model

COLOURS = ("red", "blue", "green", "white", "black", "orange")


@pytest.fixture(scope="module")
def finding(saved_retriever, tmp_path_factory):
    return MMForImageTextRetrieval.from_pretrained(saved_retriever(tmp_path_factory.mktemp("retriever")))


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for colour in COLOURS:
        picture = Image.new("RGB", (16, 16), colour)
        picture.putpixel((3, 3), (9, 9, 9))
        picture.save(folder / f"{colour}.png")
    return folder


def listed(folder):
    return sorted(folder.iterdir())


def test_an_index_holds_the_embeddings_of_its_files_and_finds_them(finding, files, tmp_path):
    report = embed_files(finding, [*listed(files), files / "notes.txt"], tmp_path / "index", batch_size=4)
    assert (report.files, report.encoded, len(report.left_aside)) == (6, 6, 1)
    index = MMIndex(tmp_path / "index")
    torch.testing.assert_close(index.embeddings, finding.encode(listed(files)), rtol=0, atol=1e-5)
    assert [Path(item["path"]) for item in index.items] == listed(files)
    hits = finding.search([files / "blue.png", "a red cat"], index, top_k=3)
    assert Path(hits[0][0]["path"]).name == "blue.png" and [len(row) for row in hits] == [3, 3]
    assert [hit["score"] for hit in hits[1]] == sorted((hit["score"] for hit in hits[1]), reverse=True)


def test_only_new_contents_are_encoded_and_deleted_files_leave(finding, files, tmp_path, monkeypatch):
    output = tmp_path / "index"
    embed_files(finding, listed(files), output)
    before = MMIndex(output).embeddings.clone()
    (files / "red.png").unlink()
    (files / "blue.png").rename(files / "azure.png")
    shutil.copy(files / "green.png", files / "same.png")
    Image.new("RGB", (16, 16), "pink").save(files / "white.png")
    seen = []
    real = build.in_batches
    monkeypatch.setattr(
        build, "in_batches", lambda paths, *rest, **more: (seen.extend(paths), real(paths, *rest, **more))[1]
    )
    report = embed_files(finding, listed(files), output)
    assert [path.name for path in seen] == ["white.png"]
    assert (report.files, report.encoded, report.kept) == (6, 1, 5)
    assert {Path(path).name for path in report.deleted} == {"red.png", "blue.png"}
    index = MMIndex(output)
    names = [Path(item["path"]).name for item in index.items]
    assert torch.equal(index.embeddings[names.index("azure.png")], before[1])
    assert torch.equal(index.embeddings[names.index("same.png")], index.embeddings[names.index("green.png")])
    assert len(list(output.glob("embeddings-*"))) == 1


def test_other_weights_encode_everything_anew(finding, files, tmp_path):
    embed_files(finding, listed(files), tmp_path / "index")
    weight = finding.itc_head.vision.weight
    with torch.no_grad():
        weight.neg_()
    try:
        assert embed_files(finding, listed(files), tmp_path / "index").encoded == 6
    finally:
        with torch.no_grad():
            weight.neg_()


def test_a_killed_run_goes_on_after_its_last_batch(finding, files, tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    embed_files(finding, listed(files), whole, batch_size=2)
    output, real, calls = tmp_path / "index", build._encode_batch, []

    def killed(*args):
        calls.append(args[1])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(build, "_encode_batch", killed)
    with pytest.raises(KeyboardInterrupt):
        embed_files(finding, listed(files), output, batch_size=2)
    monkeypatch.setattr(build, "_encode_batch", real)
    with (output / "journal.jsonl").open("ab") as file:  # what a kill in the middle of a line leaves
        file.write(b'{"model_hash": "')
    with pytest.raises(FileNotFoundError, match="no index"):
        MMIndex(output)
    report = embed_files(finding, listed(files), output, batch_size=2)
    assert (report.encoded, report.kept) == (2, 4) and not (output / "journal.jsonl").exists()
    assert MMIndex(output).items == MMIndex(whole).items
    torch.testing.assert_close(MMIndex(output).embeddings, MMIndex(whole).embeddings, rtol=0, atol=1e-5)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_that_read_ahead_change_nothing(finding, files, tmp_path, workers):
    """Also which file is broken, and which is another by the time that it is read."""
    (files / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    alone = embed_files(finding, listed(files), tmp_path / "alone", batch_size=2)
    report = embed_files(finding, listed(files), tmp_path / "index", batch_size=2, workers=workers)
    assert report == alone and report.files == 6
    assert MMIndex(tmp_path / "index").items == MMIndex(tmp_path / "alone").items
    both = [MMIndex(tmp_path / name).embeddings for name in ("index", "alone")]
    torch.testing.assert_close(*both, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="workers=-1; accepted are whole numbers from 0, or None"):
        embed_files(finding, listed(files), tmp_path / "index", workers=-1)


def test_broken_files_are_told_and_the_others_are_there(finding, files, tmp_path):
    (files / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    told = []
    report = embed_files(finding, listed(files), tmp_path / "index", on_fault=lambda *fault: told.append(fault))
    assert report.files == 6 and [Path(path).name for path, _ in report.faults] == ["bad.png"]
    assert told == report.faults and len(MMIndex(tmp_path / "index")) == 6


def test_search_in_blocks_is_search_in_one(finding):
    generator = torch.Generator().manual_seed(0)
    rows, query = (torch.nn.functional.normalize(torch.randn(n, 8, generator=generator), dim=1) for n in (500, 5))
    rows[400] = rows[7]  # equal scores: the first of the index first
    query[0] = rows[7]
    scores, found = best_in_blocks(query, rows, 10, block=37)
    expected = (query @ rows.T).sort(dim=1, descending=True, stable=True)
    assert torch.equal(found, expected.indices[:, :10])
    torch.testing.assert_close(scores, expected.values[:, :10], rtol=0, atol=1e-6)


def test_damaged_and_foreign_folders_are_refused(finding, files, tmp_path):
    with pytest.raises(FileNotFoundError, match="no index"):
        MMIndex(tmp_path)
    with pytest.raises(ValueError, match="holds other files"):
        embed_files(finding, listed(files), files)
    output = tmp_path / "index"
    embed_files(finding, listed(files), output)
    with pytest.raises(ValueError, match="another model"):
        MMIndex(output).search(torch.ones(1, 3))
    settings = json.loads((output / "index.json").read_text())
    os.truncate(output / settings["embeddings"], 40)
    with pytest.raises(ValueError, match="damaged"):
        MMIndex(output)


def test_hits_are_sorted_by_matching_and_drawn(finding, files, tmp_path):
    embed_files(finding, listed(files), tmp_path / "index")
    (hits,) = finding.search("a red cat", MMIndex(tmp_path / "index"), top_k=4)
    processor = finding._processor_for_items(None)
    found = rerank(finding, processor, "a red cat", hits, batch_size=3)
    read = processor(text=["a red cat"] * 4, images=[hit["path"] for hit in hits], return_tensors="pt")
    logits = finding.match(**read)
    chances = dict(zip((hit["path"] for hit in hits), logits.softmax(1)[:, 1].tolist(), strict=True))
    assert [hit["match"] for hit in found] == pytest.approx(sorted(chances.values(), reverse=True), abs=1e-5)
    assert all(hit["match"] == pytest.approx(chances[hit["path"]], abs=1e-5) for hit in found)
    draw_sheet(found, tmp_path / "sheet.png", title="a red cat")
    with Image.open(tmp_path / "sheet.png") as sheet:
        colours = {colour for _, colour in sheet.convert("RGB").getcolors(1 << 20)}
    assert {Image.new("RGB", (1, 1), Path(hit["path"]).stem).getpixel((0, 0)) for hit in found} <= colours
    with pytest.raises(ValueError, match="must end in"):
        draw_sheet(found, tmp_path / "sheet.txt")


def test_an_index_is_searched_only_by_the_model_that_made_it(finding, files, tmp_path):
    output, weight = tmp_path / "index", finding.itc_head.vision.weight
    embed_files(finding, listed(files), output)
    first = finding.search("a cat", MMIndex(output), 3)
    with torch.no_grad():
        weight.neg_()
    try:
        for query in ("a cat", torch.ones(12)):
            with pytest.raises(ValueError, match="other weights"):
                finding.search(query, MMIndex(output))
    finally:
        with torch.no_grad():
            weight.neg_()
    assert finding.search("a cat", MMIndex(output), 3) == first
    with pytest.raises(ValueError, match="finite"):
        finding.search(torch.full((12,), torch.nan), MMIndex(output))


def test_the_hash_of_a_model_is_that_of_its_weights_and_its_settings(finding, tmp_path):
    again = MMForImageTextRetrieval.from_pretrained(finding.name_or_path)
    other = MMForImageTextRetrieval.from_pretrained(finding.name_or_path, text_config={"hidden_act": "relu"})
    assert hash_of_model(again) == hash_of_model(finding) == hash_of_model(finding)
    assert hash_of_model(other) != hash_of_model(finding)
    changed = hash_of_model(again)
    again.load_state_dict({name: -value for name, value in again.state_dict().items()}, assign=True)
    assert hash_of_model(again) != changed


def test_an_index_is_not_emptied_by_chance(finding, files, tmp_path):
    output = tmp_path / "index"
    embed_files(finding, listed(files), output)
    for one in (str(files / "red.png"), files / "red.png", b"red.png"):
        with pytest.raises(TypeError, match="list of paths"):
            embed_files(finding, one, output)
    for none in ([], [files / "gone.png"]):
        with pytest.raises(ValueError, match="allow_empty"):
            embed_files(finding, none, output)
    with pytest.raises(ValueError, match="batch_size"):
        embed_files(finding, listed(files), output, batch_size=0)
    assert len(MMIndex(output)) == 6
    assert embed_files(finding, [], output, allow_empty=True).files == len(MMIndex(output)) == 0


def test_files_that_change_or_go_meanwhile_are_told(finding, files, tmp_path, monkeypatch):
    output, real = tmp_path / "index", build._encode
    shutil.copy(files / "white.png", files / "zwhite.png")
    (files / "dangling.png").symlink_to("nowhere.png")
    paths = listed(files)

    def meanwhile(*args):
        for colour in ("red", "white"):
            Image.new("RGB", (16, 16), "pink").save(files / f"{colour}.png")
        (files / "blue.png").unlink()
        return real(*args)

    monkeypatch.setattr(build, "_encode", meanwhile)
    report = embed_files(finding, paths, output)
    assert {Path(path).name for path, _ in report.faults} == {"red.png", "white.png", "blue.png", "dangling.png"}
    index = MMIndex(output)
    names = [Path(item["path"]).name for item in index.items]
    assert names == ["black.png", "green.png", "orange.png", "zwhite.png"] and report.encoded == 4
    expected = finding.encode([files / name for name in names])
    torch.testing.assert_close(index.embeddings, expected, rtol=0, atol=1e-5)


def test_one_content_under_the_names_of_two_kinds_is_encoded_twice(finding, files, tmp_path, monkeypatch):
    (files / "both.mp4").write_bytes(b"one content")
    shutil.copy(files / "both.mp4", files / "both.m4a")
    kinds = {".mp4": 0, ".m4a": 1}
    monkeypatch.setattr(finding.config, "modalities", ["image", "video", "audio"])
    rows = torch.eye(12).numpy()
    monkeypatch.setattr(build, "in_batches", lambda paths, *_, **__: [
        (number, rows[kinds[path.suffix]]) for number, path in enumerate(paths)
    ])  # fmt: skip
    embed_files(finding, [files / "both.mp4", files / "both.m4a"], tmp_path / "index")
    assert torch.equal(MMIndex(tmp_path / "index").embeddings, torch.eye(12)[:2])


@pytest.mark.parametrize("damage", ["cut", "gone", "empty", "journal"])
def test_a_damaged_index_is_made_again(finding, files, tmp_path, damage):
    output = tmp_path / "index"
    embed_files(finding, listed(files), output)
    held = json.loads((output / "index.json").read_text())
    if damage == "cut":
        os.truncate(output / held["embeddings"], 40)
    elif damage == "gone":
        (output / held["items"]).unlink()
    elif damage == "empty":
        (output / "index.json").write_text("")
    else:
        (output / "journal.jsonl").write_bytes(b"\0\0\0\n")
    with nullcontext() if damage == "journal" else pytest.warns(UserWarning, match="made again"):
        report = embed_files(finding, listed(files), output)
    assert report.encoded == (0 if damage == "journal" else 6) and len(MMIndex(output)) == 6
    assert len(list(output.glob("embeddings-*"))) == 1


def test_an_index_that_is_replaced_while_it_is_opened_is_read_again(finding, files, tmp_path, monkeypatch):
    output, real = tmp_path / "index", index_file.read_settings
    embed_files(finding, listed(files), output)
    old = real(output)
    embed_files(finding, listed(files)[:4], output)
    given = iter([old])
    monkeypatch.setattr(index_file, "read_settings", lambda folder: next(given, None) or real(folder))
    assert len(MMIndex(output)) == 4


@pytest.mark.apps
def test_a_graph_finds_what_the_exact_search_does(tmp_path):
    from mm.searching.graph import build_graph
    from mm.searching.index import write_index

    rows = torch.nn.functional.normalize(torch.randn(3000, 32, generator=torch.Generator().manual_seed(1)), dim=1)
    items = [{"path": str(number), "kind": "image", "sha256": str(number)} for number in range(len(rows))]
    write_index(tmp_path / "index", items, rows, {})
    index = MMIndex(tmp_path / "index")
    with pytest.raises(ValueError, match="has no graph"):
        index.search(rows[:2], 3, approximate=True)
    assert build_graph(index) > 0.95
    near, exact = index.search(rows[:5], 3, approximate=True), index.search(rows[:5], 3)
    assert [hits[0]["index"] for hits in near] == [0, 1, 2, 3, 4]
    assert near[0][0]["score"] == pytest.approx(exact[0][0]["score"], abs=1e-6)
    write_index(tmp_path / "index", items[:100], rows[:100], {})  # an old graph is not asked
    with pytest.raises(ValueError, match="has no graph, or an old one"):
        MMIndex(tmp_path / "index").search(rows[:2], 3, approximate=True)
