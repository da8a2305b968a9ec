"""What the tests of training share."""

import pytest

import mm
from small_trainer import small_trainer


@pytest.fixture(scope="session")
def processor():
    return mm.MMProcessor.from_pretrained("checkpoints/mm-tiny")


@pytest.fixture
def trainer(tmp_path, processor):
    """trainer(callbacks=..., output=..., **TrainingArguments): `small_trainer`, in the folder run unless told."""

    def build(callbacks=(), output=None, **settings):
        return small_trainer(output or tmp_path / "run", processor, callbacks, **settings)

    return build
