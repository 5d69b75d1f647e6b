"""Tiny random models of the real classes, made once per session."""

from __future__ import annotations

import os
import signal

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"  # read when torch is first imported
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may fetch anything
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what it puts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

import hypothesis
import pytest

hypothesis.settings.register_profile("house", deadline=None)  # machines are shared
hypothesis.settings.load_profile("house")


def _write(folder, make):
    import torch
    import transformers

    from earwitness.pretrain.build import write

    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    write(make(), folder)
    return folder


@pytest.fixture(scope="session")
def tiny_student(tmp_path_factory):
    """The folder of a random listener."""
    from earwitness.pretrain.bodies import new_listener

    return _write(tmp_path_factory.mktemp("models") / "student", new_listener)


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory):
    """The folder of a random watcher."""
    from earwitness.pretrain.bodies import new_watcher

    return _write(tmp_path_factory.mktemp("models") / "teacher", new_watcher)


@pytest.fixture(scope="session")
def tiny_reader(tmp_path_factory):
    """The folder of a random model that only reads."""
    from earwitness.pretrain.bodies import new_text_core

    return _write(tmp_path_factory.mktemp("models") / "reader", new_text_core)


@pytest.fixture(scope="session")
def listener(tiny_student):
    """The random listener, loaded as student: read it, do not train it."""
    return open_model(tiny_student, "student")


@pytest.fixture(scope="session")
def watcher(tiny_teacher):
    """The random watcher, loaded as teacher: read it, do not train it."""
    return open_model(tiny_teacher, "teacher")


@pytest.fixture(scope="session")
def tiny_adapter(tiny_student, tmp_path_factory):
    """The folder of an adapter of the random listener that changes what it says."""
    import torch

    model = under_lora(open_model(tiny_student, "student").model)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.1)
    folder = tmp_path_factory.mktemp("models") / "adapter"
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def world_server():
    """The base URL of a server of all embedded models, each under its own name; it may load nothing else."""
    from servers import serving

    with serving(*(f"world:{name}" for name in ("teacher", "checker", "student", "textual-teacher"))) as url:
        yield url


def open_model(folder, role):
    """Load a folder's model in a role."""
    from earwitness.config import Model
    from earwitness.models import open_local

    return open_local(Model(kind="local", name=str(folder)), role)


def under_lora(model):
    """Put a fresh adapter on a model, as the training stages do."""
    from peft import LoraConfig, get_peft_model

    from earwitness.stages.student import LINEAR

    return get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=r".*language_model.*" + LINEAR))
