from prl.rl.critic_warmup import CriticWarmup


def active(warmup: CriticWarmup, explained: list[float]) -> list[bool]:
    seen = []
    for iteration, value in enumerate(explained):
        warmup.observe(iteration, value)
        seen.append(warmup.is_active(iteration))
    return seen


def test_it_ends_with_its_budget() -> None:
    assert active(CriticWarmup(2), [0.9, 0.9, 0.9]) == [True, True, False]
    assert active(CriticWarmup(2, until=0.95), [0.9, 0.9, 0.9]) == [True, True, False]
    assert active(CriticWarmup(0), [0.0]) == [False]


def test_it_ends_early_when_the_critic_explains_enough_and_stays_ended() -> None:
    warmup = CriticWarmup(10, until=0.5)
    assert active(warmup, [-1.0, 0.4, 0.5, 0.0]) == [True, True, False, False]
    assert warmup.length == 2


def test_a_checkpoint_keeps_when_it_ended() -> None:
    warmup, again = CriticWarmup(10, until=0.5), CriticWarmup(10, until=0.5)
    warmup.observe(3, 0.7)
    again.load_state_dict(warmup.state_dict())
    assert again.is_active(2)
    assert not again.is_active(3)
