"""Draws differ in every epoch and for every sample, and nobody tells the collator of an epoch."""

# A list of samples is a data set.

import pickle

import pytest
import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.data_loader import prepare_data_loader
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset
from transformers import BertTokenizer, Trainer, TrainingArguments

from mm import MMDataCollator, MMImageProcessorPil, MMProcessor

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", *(f"w{number}" for number in range(30))]
EPOCHS = 3


def dye(image, rng):
    return Image.new("RGB", image.size, tuple(int(value) for value in rng.integers(0, 256, 3)))


def make_collator(**options) -> MMDataCollator:
    tokenizer = BertTokenizer(vocab={word: place for place, word in enumerate(WORDS)})
    images = MMImageProcessorPil(size={"height": 8, "width": 8}, do_normalize=False)
    return MMDataCollator(MMProcessor(images, tokenizer), **{"augment": dye, "seed": 5, **options})


def samples(count=6, ids=False) -> list[dict]:
    made = [{"image": Image.new("RGB", (8, 8)), "suffix": f"w{number}"} for number in range(count)]
    return [{"id": f"s{number}", **sample} for number, sample in enumerate(made)] if ids else made


class Stream(IterableDataset):
    def __init__(self, held, laps=1):
        self.held, self.laps = held, laps

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for _ in range(self.laps):
            yield from self.held[first::step]


def seen(batch) -> list[tuple]:
    """(word, colour) of each sample of a batch."""
    colours = batch["pixel_values"][:, :, 0, 0].mul(255).round().int().tolist()
    return [(row[1], tuple(colour)) for row, colour in zip(batch["input_ids"].tolist(), colours, strict=True)]


def passes(loader, count=EPOCHS) -> list[dict]:
    """Colour by word of each pass."""
    return [dict(pair for batch in loader for pair in seen(batch)) for _ in range(count)]


def all_differ(found: list[dict]) -> bool:
    return len({(colour) for one in found for colour in one.values()}) == sum(len(one) for one in found)


WORKERS = {
    "none": {},
    "two": {"num_workers": 2},
    "two that live on": {"num_workers": 2, "persistent_workers": True},
    "spawned": {"num_workers": 1, "persistent_workers": True, "multiprocessing_context": "spawn"},
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("workers", ["none", "two", "two that live on"])
def test_passes_of_a_plain_loader_differ(workers, stream):
    held = samples(ids=stream)
    loader = DataLoader(Stream(held) if stream else held, 2, collate_fn=make_collator(), **WORKERS[workers])
    assert all_differ(passes(loader))


def test_a_plain_loader_draws_by_torchs_seed_whatever_its_workers():
    found = []
    for workers in ("none", "two"):
        torch.manual_seed(3)
        loader = DataLoader(samples(), 2, shuffle=True, collate_fn=make_collator(), **WORKERS[workers])
        found.append(passes(loader))
    assert found[0] == found[1]


@pytest.mark.parametrize("stream", [False, True])
def test_accelerates_epochs_are_those_of_set_epoch_whatever_the_workers(stream):
    collator, expected = make_collator(), []
    for epoch in range(EPOCHS):
        collator.set_epoch(epoch)
        expected.append(dict(seen(collator(samples(ids=True)))))
    assert all_differ(expected)
    for workers in ("none", "two", "two that live on"):
        held = samples(ids=True)
        loader = DataLoader(Stream(held) if stream else held, 2, collate_fn=make_collator(), **WORKERS[workers])
        assert passes(Accelerator(cpu=True).prepare(loader)) == expected, workers


def hidden_places(loader) -> list[tuple]:
    rows = [row for _ in range(EPOCHS) for batch in loader for row in batch["mlm_targets"]]
    return [tuple(row.flatten().tolist()) for row in rows]


@pytest.mark.slow
def test_a_spawned_worker_that_lives_on_knows_the_epoch_too():
    held = [{"suffix": " ".join(f"w{number}" for number in range(20))} for _ in range(4)]
    options = {"augment": None, "mlm_probability": 0.5}
    known = DataLoader(held, 2, collate_fn=make_collator(**options))
    living = DataLoader(held, 2, collate_fn=make_collator(**options), **WORKERS["spawned"])
    expected = hidden_places(Accelerator(cpu=True).prepare(known))
    assert hidden_places(Accelerator(cpu=True).prepare(living)) == expected
    assert len(set(expected)) == len(set(hidden_places(living))) == 12


@pytest.mark.parametrize("workers", ["none", "two that live on"])
def test_an_epoch_that_is_told_reaches_workers_that_run(workers):
    collator = make_collator()
    loader, found = DataLoader(samples(), 2, collate_fn=collator, **WORKERS[workers]), []
    for epoch in (4, 0, 4):
        collator.set_epoch(epoch)
        found += passes(loader, 1)
    assert found[0] == found[2] and all_differ(found[:2]) and collator.epoch == 4


def test_two_processes_draw_what_one_draws_and_a_resumed_epoch_what_a_whole_one_draws():
    held = samples(8)
    loaders = [
        prepare_data_loader(
            DataLoader(held, size, collate_fn=make_collator()), num_processes=count, process_index=place
        )
        for count, size, place in ((1, 4, 0), (2, 2, 0), (2, 2, 1))
    ]
    whole, first, second = (passes(loader) for loader in loaders)
    assert [one | two for one, two in zip(first, second, strict=True)] == whole and all_differ(whole)
    resumed = skip_first_batches(loaders[0], 1)
    resumed.set_epoch(1)
    rest = passes(resumed, 1)[0]
    assert len(rest) == 4 and rest.items() <= whole[1].items()


def test_a_stream_that_repeats_itself_is_drawn_anew_each_time():
    loader = DataLoader(Stream(samples(ids=True), laps=3), 2, collate_fn=make_collator())
    found = [pair for batch in Accelerator(cpu=True).prepare(loader) for pair in seen(batch)]
    assert len(found) == len(set(found)) == 18


def test_equal_samples_without_ids_have_draws_of_their_own():
    one = [{"image": Image.new("RGB", (8, 8)), "suffix": "w1"} for _ in range(4)]
    for held in (one, Stream(one)):
        found = [pair for batch in DataLoader(held, 2, collate_fn=make_collator()) for pair in seen(batch)]
        assert len(set(found)) == 4
    assert len(set(seen(make_collator()(one)))) == 4


def test_by_hand_an_id_says_it_all_and_what_has_none_is_drawn_anew():
    collator, named, nameless = make_collator(), samples(2, ids=True), samples(2)
    assert seen(collator(named)) == seen(collator(named[::-1]))[::-1]
    first = seen(collator(nameless))
    assert set(first).isdisjoint(seen(collator(nameless)))
    assert seen(make_collator()(nameless[::-1]))[::-1] == first  # by what they hold, not by their place
    collator.set_epoch(0)
    assert seen(collator(nameless)) == seen(pickle.loads(pickle.dumps(collator))(nameless)) == first


@pytest.mark.parametrize("of", ["masked_input_ids", "bool_masked_pos"])
def test_tokens_and_patches_are_hidden_anew_in_each_pass(of):
    words = " ".join(f"w{number}" for number in range(20))
    held = [{"image": Image.new("RGB", (8, 8), (number, 0, 0)), "suffix": words} for number in range(4)]
    collator = make_collator(augment=None, mlm_probability=0.5, mim_ratio=0.5, patch_size=1)
    loader = DataLoader(held, 2, collate_fn=collator)
    rows = [row.flatten().tolist() for _ in range(EPOCHS) for batch in loader for row in batch[of]]
    assert len({tuple(row) for row in rows}) == len(rows) == 12


# ------------------------------------------------------------------------------------------------------- under Trainer


class Watched(MMDataCollator):
    """Keeps what it made, where it runs in this process."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.made = []

    def __call__(self, samples):
        self.made.append(super().__call__(samples))
        return self.made[-1]


class Anything(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches = []

    def forward(self, **batch):
        self.batches += [batch] if self.training else []
        return {"loss": self.weight * 0}


def train(folder, held, resume=None, **arguments) -> list[tuple]:
    """(word, colour) of each sample in the order of training."""
    settings = {
        "num_train_epochs": EPOCHS,
        "per_device_train_batch_size": 2,
        "remove_unused_columns": False,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
        "dataloader_pin_memory": False,
    }
    args = TrainingArguments(str(folder), **{**settings, **arguments})
    collator = make_collator()
    model = Anything()
    trainer = Trainer(model, args, train_dataset=held, eval_dataset=samples(4), data_collator=collator)
    trainer.train(resume_from_checkpoint=resume)
    return [pair for batch in model.batches for pair in seen(batch)]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("ids", [True, False])
def test_under_trainer_each_epoch_draws_anew_and_a_resumed_one_the_same(workers, ids, tmp_path):
    options = {"dataloader_num_workers": workers, "save_strategy": "steps", "save_steps": 4, "eval_strategy": "epoch"}
    whole = train(tmp_path / "whole", samples(ids=ids), **options)
    assert len(whole) == len({colour for _, colour in whole}) == 18
    resumed = train(tmp_path / "part", samples(ids=ids), tmp_path / "whole" / "checkpoint-4", **options)
    assert resumed == whole[8:]  # in the middle of the second epoch
    if workers:
        living = train(tmp_path / "living", samples(ids=ids), dataloader_persistent_workers=True, **options)
        assert living == whole


@pytest.mark.slow
def test_under_trainer_a_stream_draws_anew_in_each_pass_and_resumes(tmp_path):
    options = {"max_steps": 9, "save_strategy": "steps", "save_steps": 2}
    whole = train(tmp_path / "whole", Stream(samples()), **options)
    assert len(whole) == len({colour for _, colour in whole}) == 18
    resumed = train(tmp_path / "part", Stream(samples()), tmp_path / "whole" / "checkpoint-2", **options)
    assert resumed[:2] == whole[4:6]  # the first pass; behind it Trainer 5.23 counts a stream's epochs otherwise


def test_trainer_evaluates_pictures_as_they_are_and_hides_the_same_tokens_each_time(tmp_path):
    collator = Watched(make_collator().processor, augment=dye, mlm_probability=0.5)
    args = TrainingArguments(str(tmp_path), remove_unused_columns=False, report_to="none", use_cpu=True)
    trainer = Trainer(Anything(), args, eval_dataset=samples(), data_collator=collator)
    for _ in range(2):
        trainer.evaluate()
    trainer.predict(samples())
    first, second, third = collator.made
    assert not first["pixel_values"].any() and not third["pixel_values"].any()
    assert torch.equal(first["mlm_targets"], second["mlm_targets"])
