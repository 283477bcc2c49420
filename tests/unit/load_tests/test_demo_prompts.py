from adasd.demo.tasks import Task
from load_tests.demo_prompts import examples, is_right


def test_all_tasks_take_part_and_fewer_prompts_are_the_first_ones():
    chosen = examples(8)
    assert [example.task for example in chosen[:4]] == list(Task)
    assert examples(5) == chosen[:5]


def test_right_and_wrong_answers_are_told_apart():
    example = next(example for example in examples(4) if example.task is Task.ARITHMETIC)
    assert is_right(example, example.answer)
    assert not is_right(example, "#### -1")
