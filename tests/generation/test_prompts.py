import json

import pytest

from cifake_core.errors import ConfigurationError
from cifake_core.generation import plan, prompts
from cifake_core.settings import CLASSES


def write(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_default_is_the_papers_table_of_ten_classes_with_three_prompts_each():
    table = prompts.load().classes
    assert tuple(table) == CLASSES
    assert [len(texts) for texts in table.values()] == [3] * 10
    assert table["ship"] == ["a cargo ship at sea", "realistic sailboat on water", "military ship during sunset"]


BAD = {
    "unknown key": ({"classes": {"cat": ["a cat"]}, "modifiers": []}, "unknown key 'modifiers'"),
    "not JSON": ("classes: cat", "not JSON"),
    "no class": ({"classes": {}}, "at least 1"),
    "class without prompts": ({"classes": {"cat": []}}, "class 'cat' needs at least one prompt"),
    "empty prompt": ({"classes": {"cat": [" "]}}, "none of them empty"),
    "slash in a class": ({"classes": {"a/b": ["x"]}}, "'a/b' is empty or holds a slash"),
    "a prompt that is no text": ({"classes": {"cat": [7]}}, "classes.cat.0"),
}


@pytest.mark.parametrize(("value", "said"), BAD.values(), ids=BAD.keys())
def test_a_bad_file_is_refused_in_one_line_that_names_it_and_the_fault(tmp_path, value, said):
    file = write(tmp_path / "mine.json", value)
    with pytest.raises(ConfigurationError) as refused:
        prompts.load(file)
    assert str(refused.value).startswith(f"{file}: ")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"nowhere\.json: cannot be read"):
        prompts.load(tmp_path / "nowhere.json")


def test_a_file_brings_a_new_domain_without_code(tmp_path):
    file = write(
        tmp_path / "faces.json", {"classes": {"young": ["a child's face"], "old": ["an old face", "wrinkles"]}}
    )
    made = plan.make("stable-diffusion-v1-4", 10, 2, prompts=prompts.load(file))
    rows = {}
    for shard in made.shards:
        rows[shard.side, shard.object_class] = rows.get((shard.side, shard.object_class), 0) + shard.rows
    assert rows == {("train", "young"): 5, ("train", "old"): 5, ("test", "young"): 1, ("test", "old"): 1}
    assert {shard.prompt for shard in made.shards} >= {"a child's face", "an old face", "wrinkles"}


def test_the_command_refuses_an_unknown_key_with_exit_code_2_and_writes_nothing(tmp_path, run, home):
    file = write(tmp_path / "mine.json", {"classes": {"cat": ["a cat"]}, "negative": "dog"})
    done = run("plan", "--generator", "stable-diffusion-v1-4", "--count", 12, "--prompts", file)
    assert done.returncode == 2
    assert done.stderr == (
        f'cifake plan: {file}: unknown key \'negative\'; the only key is "classes": {{"CLASS": ["PROMPT", …]}}\n'
    )
    assert not home.exists()
