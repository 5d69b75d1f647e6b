"""Configurations: what is written comes back equal, and what is wrong is named with what would do."""

from __future__ import annotations

from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

import worlds
from earwitness.config import ConfigError, RunConfig, digest

SHIPPED = sorted(p.name for p in (resources.files("earwitness") / "configs").iterdir() if p.name.endswith(".toml"))


def shipped(name: str, *overrides: str) -> RunConfig:
    with resources.as_file(resources.files("earwitness.configs") / name) as path:
        return RunConfig.load(path, overrides)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_configuration_comes_back_equal_from_its_resolved_form(name, tmp_path):
    config = shipped(name)
    again = RunConfig.load(worlds.save(config, tmp_path / "config.toml"))
    assert again == config
    assert again.to_toml() == config.to_toml()


STEPS = st.lists(
    st.fixed_dictionaries(
        {"stage": st.just("sft")},
        optional={"steps": st.integers(1, 9), "learning_rate": st.floats(1e-9, 1), "lessons": st.sampled_from(["all"])},
    ),
    max_size=3,
)


@given(
    seed=st.integers(-(2**31), 2**31),
    arms=st.dictionaries(st.text(min_size=1, max_size=8), STEPS, max_size=3),
    share=st.floats(0.001, 1),
    bank=st.none() | st.text(max_size=8),
)
def test_any_configuration_comes_back_equal(tmp_path_factory, seed, arms, share, bank):
    config = worlds.world_config(seed=seed, arms=arms, vote={"share": share}, verify={"bank": bank})
    assert RunConfig.load(worlds.save(config, tmp_path_factory.mktemp("any") / "config.toml")) == config


def test_overrides_take_any_toml_value_and_bare_words():
    config = shipped(
        "world.toml", "sft.steps=7", "train.seeds=[4, 5]", "questions.train=folder:my videos", "verify.bank = 'a=b'"
    )
    assert config.sft.steps == 7 and config.train.seeds == (4, 5)
    assert config.questions.train == ("folder:my videos",) and config.verify.bank == "a=b"
    assert config.sft.batch == shipped("world.toml").sft.batch


@pytest.mark.parametrize(
    "override, said",
    [
        ("sft.stepz=3", "unknown key sft.stepz; did you mean 'steps'?"),
        ("sfd.steps=3", "unknown key sfd; did you mean 'sft'?"),
        ("models.techer.name=x", "unknown role models.techer; did you mean 'teacher'?"),
        ("models.teacher.nam=x", "unknown key models.teacher.nam; did you mean 'name'?"),
        ("sft.steps=0", "sft.steps: Input should be greater than or equal to 1 (got 0)"),
        ("sft.steps=many", "sft.steps: Input should be a valid integer"),
        ("vote.share=1.5", "vote.share: Input should be less than or equal to 1 (got 1.5)"),
        ("sft.lessons=golden", "sft.lessons: Input should be"),
        ("name=a/b", "name: String should match"),
        ("name.x=1", "name is not a section"),
        ("sft.steps", "override 'sft.steps': write section.key=value"),
        ('arms.x=[{stage="sft", stepz=1}]', "unknown key 'stepz' in a step of stage sft; did you mean 'steps'?"),
        ('arms.x=[{stage="sft", steps=0}]', "arms.x, step 1"),
        ('arms.x=[{stage="answer"}, {stage="sft"}]', "arms.x: an answer step must be the last one"),
        ("variants.default={}", "'default' is the run without overrides"),
    ],
)
def test_what_is_wrong_is_named_with_what_would_do(override, said):
    with pytest.raises(ConfigError) as error:
        shipped("world.toml", override)
    assert said in str(error.value)


@pytest.mark.parametrize("text, said", [("name = ", "is not valid TOML"), (None, "no configuration at")])
def test_a_file_that_does_not_read_is_named(text, said, tmp_path):
    path = tmp_path / "my.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=said) as error:
        RunConfig.load(path)
    assert str(path) in str(error.value)


def test_a_variant_is_the_configuration_with_its_overrides():
    config = worlds.world_config(variants={"loose": {"vote.share": 0.5, "sft.steps": 9}})
    assert config.variant("default") == worlds.world_config()
    loose = config.variant("loose")
    assert (loose.vote.share, loose.sft.steps, loose.variants) == (0.5, 9, {})
    with pytest.raises(ConfigError, match=r"variant wrong:\n.*unknown key vote.sher"):
        worlds.world_config(variants={"wrong": {"vote.sher": 0.5}}).variant("wrong")


def test_where_and_how_much_is_no_part_of_what_is_made():
    config = worlds.world_config()
    moved = worlds.world_config(sft={"micro_batch": 1, "checkpoint_every": 7}, train={"parallel": 9})
    assert digest(moved.sft.identity()) == digest(config.sft.identity())
    assert digest(worlds.world_config(sft={"steps": 4}).sft.identity()) != digest(config.sft.identity())


def test_what_is_measured_does_not_depend_on_where():
    config = shipped("world.toml")
    for override in ("train.parallel=2", "train.processes=4", "sft.micro_batch=3", "models.student.device=cpu"):
        assert shipped("world.toml", override).measured() == config.measured()
    for override in ("questions.limit=7", "exams.limit=7", "sft.steps=7", "train.seeds=[2]", "arms.new=[]"):
        assert shipped("world.toml", override).measured() != config.measured()
