"""Steps of fixed shapes: the plain path's ids, one compilation, one capture, nothing asked for.

There is no GPU here. A stand-in for PyTorch's graphs notes every operation that runs while it
records, with the tensors that it read and wrote, and does all of it again at a replay: what the
steps keep outside of tensors is as it was when they were recorded, as on a GPU.
"""

import copy
import gc
import weakref
from contextlib import contextmanager

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from smol import SmolLM2, load_pretrained
from smol.generate import fast, fixed, generate, generate_steps, prepare_for_decoding
from smol.generate import steps as stepping
from smol.generate.sampling import draw
from smol.pretrained import SHIPPED, from_reference
from smol.tests.reference import tiny_reference
from smol.tests.test_generate import prompts_of_unequal_length


def tensors(tree) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def place(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class Tape(TorchDispatchMode):
    """A CUDA graph's stand-in."""

    made = 0

    def __init__(self):
        super().__init__()
        self.notes = []
        Tape.made += 1

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.notes.append((function, args, kwargs or {}, out))
        return out

    def forget(self):
        """A graph that was recorded has computed nothing yet."""
        for _, args, kwargs, out in self.notes:
            for new in tensors(out):
                if place(new) not in map(place, tensors((args, kwargs))):
                    new.fill_(float("nan") if new.is_floating_point() else 1)

    @torch.inference_mode()
    def replay(self):
        for function, args, kwargs, out in self.notes:
            again = function(*args, **kwargs)
            for old, new in zip(tensors(out), tensors(again), strict=True):
                if place(old) != place(new):
                    old.copy_(new)


class Stream:
    def wait_stream(self, other):
        pass


@contextmanager
def recorded(tape, capture_error_mode):
    assert capture_error_mode == "thread_local"
    with tape:
        yield
    tape.forget()


@pytest.fixture
def captured(monkeypatch):
    """As on a GPU: steps are captured, and replayed."""

    @contextmanager
    def aside(stream):
        yield

    main = Stream()
    for name, fake in (
        ("Stream", Stream),
        ("CUDAGraph", Tape),
        ("current_stream", lambda: main),
        ("stream", aside),
        ("graph", recorded),
    ):
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(stepping, "captures", lambda device: True)
    monkeypatch.setattr(fixed, "captures", lambda device: True)
    monkeypatch.setattr(Tape, "made", 0)


@pytest.fixture
def counted(monkeypatch):
    """The functions that were compiled, by name, as often as they were."""
    names = []

    def backend(graph, inputs, **options):
        names.append(graph)
        return graph.forward

    def compiling(function, **settings):
        settings["options"] = None
        return torch_compile(function, backend=backend, **settings)

    torch_compile = torch.compile
    fixed.compiled.cache_clear()
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", compiling)
    monkeypatch.setattr(stepping, "check_compiler", lambda: None)
    yield names
    fixed.compiled.cache_clear()
    torch._dynamo.reset()


def plain(model, *arguments, **settings) -> torch.Tensor:
    """The ids of the path without any of this."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stepping, "captures", lambda device: False)
        return generate(model, *arguments, **settings)


@pytest.fixture(scope="module")
def shipped() -> SmolLM2:
    return load_pretrained(SHIPPED)


def model_of(**changes) -> SmolLM2:
    """Weights large enough that it does not say the same again and again."""
    return from_reference(tiny_reference(**{"initializer_range": 0.5, **changes}))


# -- the same ids ---------------------------------------------------------------------------------

SETTINGS = {
    "greedy": {},
    "stop ids": {"stop_ids": [5, 17, 40]},
    "penalty": {"repetition_penalty": 1.3},
    "drawn": {"temperature": 1.2, "top_k": 40, "top_p": 0.95, "min_p": 0.01},
    "drawn, with a penalty and stop ids": {
        "temperature": 1.0,
        "repetition_penalty": 1.2,
        "stop_ids": [5],
    },
}


def with_generator(settings: dict) -> dict:
    return {**settings, "generator": torch.Generator().manual_seed(4)}


@pytest.mark.parametrize("how", ["alone", "padded", "padded, sliding"])
@pytest.mark.parametrize("name", SETTINGS)
def test_captured_steps_give_the_ids_of_growing_ones(captured, name, how):
    model = model_of(max_position_embeddings=40)
    ids, mask = prompts_of_unequal_length(5)
    new, slide = (60, True) if "slid" in how else (29, False)
    settings = {**SETTINGS[name], "attention_mask": mask if "pad" in how else None, "slide": slide}
    want = plain(model, ids, new, **with_generator(settings))
    assert torch.equal(generate(model, ids, new, **with_generator(settings)), want)
    # and so in the next call, which finds the graphs made
    made = Tape.made
    assert torch.equal(generate(model, ids, new, **with_generator(settings)), want)
    assert Tape.made == made > 0


@pytest.mark.parametrize("seed", range(4))
def test_captured_steps_of_random_shapes(captured, seed):
    from smol.tests.test_model import random_shape

    model = model_of(**random_shape(seed))
    ids, mask = prompts_of_unequal_length(seed)
    want = plain(model, ids, 50, attention_mask=mask)
    assert torch.equal(generate(model, ids, 50, attention_mask=mask), want)


def test_256_tokens_of_the_shipped_model(captured, shipped):
    torch.manual_seed(0)
    ids = torch.randint(len(shipped.embed_tokens.weight), (1, 12))
    for settings in ({}, {"temperature": 0.9, "generator": torch.Generator().manual_seed(1)}):
        state = torch.Generator().manual_seed(1).get_state()
        texts = []
        for write in (plain, generate):
            if "generator" in settings:
                settings["generator"].set_state(state)
            texts.append(write(shipped, ids, 256, **settings))
        assert torch.equal(*texts)


def test_rows_that_end_among_tokens_made_ahead(captured, monkeypatch):
    """Ids and log-probabilities of the plain path, in which each token is looked at."""
    model, (ids, mask) = model_of(), prompts_of_unequal_length(3)
    free = plain(model, ids, 40, attention_mask=mask)[:, ids.size(1) :]
    stop = [free[0, 3].item(), free[1, 12].item(), free[2, 13].item(), free[3, 22].item()]
    ends = [min(row.tolist().index(i) for i in stop if i in row) for row in free]
    assert len(set(ends)) > 2 and (max(ends) - 1) % fixed.AHEAD < fixed.AHEAD - 1
    settings = {"attention_mask": mask, "stop_ids": stop}
    fast = list(generate_steps(model, ids, 40, **settings))
    monkeypatch.setattr(stepping, "captures", lambda device: False)
    slow = list(generate_steps(model, ids, 40, **settings))
    assert len(fast) == len(slow) == max(ends) + 1
    for one, other in zip(fast, slow, strict=True):
        assert torch.equal(one.ids, other.ids)
        assert torch.allclose(one.logprobs, other.logprobs, atol=1e-4)


def test_bf16_is_as_near_as_rounding_allows(captured, shipped):
    model = copy.deepcopy(shipped).bfloat16()
    torch.manual_seed(0)
    ids = torch.randint(len(model.embed_tokens.weight), (2, 30))
    with torch.no_grad(), fixed.fixed_steps(model, 2, 32, False) as steps:
        hidden = model(ids[:, :-1], steps.cache, head=False)
        assert hidden.dtype == torch.bfloat16
        got, want = steps.logits(ids[:, -1:]), model(ids)[:, -1].float()
    assert (got - want).abs().max() < 2e-2 * want.abs().max()


def test_a_first_step_alone_and_eight_at_a_time(captured, monkeypatch):
    """The first token comes at once; then one launch makes AHEAD, and the rest one by one."""
    asked = []
    launch = fixed.FixedSteps._launch

    def noted(self, name, *rest):
        asked.append(name)
        return launch(self, name, *rest)

    monkeypatch.setattr(fixed.FixedSteps, "_launch", noted)
    generate(model_of(), torch.tensor([[1, 2, 3]]), 1 + 2 * fixed.AHEAD + 3)
    assert asked == ["likeliest"] * 2 + ["logits"] * 3


# -- made once ------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [2, 5])
def test_one_compilation_serves_all_layers_and_every_prompt(counted, layers):
    """One of the block, whatever their number, and one each of what comes before and after."""
    model = model_of(num_hidden_layers=layers)
    torch.manual_seed(0)
    first, second = (torch.randint(97, (1, n)) for n in (9, 30))
    settings = {"compile": True}
    assert torch.equal(generate(model, first, 30, **settings), plain(model, first, 30))
    assert len(counted) == 4
    assert torch.equal(generate(model, second, 90, **settings), plain(model, second, 90))
    drawn = {"temperature": 1.0, "repetition_penalty": 1.1}
    generate(model, first, 20, **drawn, **settings)
    other = model_of(num_hidden_layers=layers)
    assert torch.equal(generate(other, first, 30, **settings), plain(other, first, 30))
    assert len(counted) == 4


def test_a_longer_text_is_compiled_anew_at_the_next_size_only(counted, monkeypatch):
    monkeypatch.setattr(fixed, "LEAST", 16)
    model, ids = model_of(), torch.tensor([[1, 2, 3]])
    for new, sizes in ((10, 1), (13, 1), (14, 2), (29, 2), (10, 2), (30, 3), (100, 4)):
        assert torch.equal(generate(model, ids, new, compile=True), plain(model, ids, new))
        assert len(counted) == 4 * sizes
    for rows in range(2, 7):  # more shapes than a compiler takes of one code
        generate(model, ids.repeat(rows, 1), 3, compile=True)


def test_sizes():
    assert [fixed.rounded(n, 8192) for n in (1, 1024, 1025, 5000)] == [1024, 1024, 2048, 8192]
    assert fixed.rounded(1500, 1600) == 1600 and fixed.rounded(3, 512) == 512


def test_a_prepared_model_is_compiled_as_it_is(counted, monkeypatch):
    monkeypatch.setattr(fast, "columns_pay", lambda *trial: True)
    model = prepare_for_decoding(model_of())
    ids = torch.tensor([[1, 2, 3]])
    with fixed.fixed_steps(model, 1, 40, True) as steps:
        _, qkv, out, _, gate_up, _ = steps.layers[0][0]
        assert all(w.stride(0) == 1 for w in (qkv, out, gate_up, steps.ends[1]))
    assert torch.equal(generate(model, ids, 30, compile=True), plain(model, ids, 30))


# -- kept, and for whom ---------------------------------------------------------------------------


def test_what_is_kept_goes_with_the_model_and_is_no_part_of_it(captured):
    model = model_of()
    generate(model, torch.tensor([[1, 2]]), 20)
    kept = weakref.ref(fixed._kept[model])
    assert copy.deepcopy(model) not in fixed._kept
    assert set(model.state_dict()) == set(model_of().state_dict())
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None and kept() is None


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.bfloat16(),
        lambda model: model.double(),
        lambda model: setattr(model.norm.weight, "data", model.norm.weight.data.clone()),
        lambda model: setattr(
            model.layers[1].mlp, "up_proj", copy.deepcopy(model.layers[0].mlp.up_proj)
        ),
    ],
    ids=["bf16", "fp64", "other storage", "another module"],
)
def test_weights_elsewhere_are_other_steps(captured, change):
    model, ids = model_of(), torch.tensor([[1, 2, 3]])
    generate(model, ids, 20)
    before = fixed._kept[model]
    model = change(model) or model
    if fixed.fits(model):
        got = generate(model, ids, 20)
        assert fixed._kept[model] is not before
        if model.norm.weight.dtype != torch.bfloat16:  # which rounds too much for that
            assert torch.equal(got, plain(model, ids, 20))


def test_another_batch_or_length_are_other_steps(captured, monkeypatch):
    monkeypatch.setattr(fixed, "LEAST", 16)
    model, ids = model_of(), torch.tensor([[1, 2, 3]])
    found = []
    for rows, new in ((1, 10), (1, 12), (2, 10), (2, 20), (2, 29)):
        text = ids.repeat(rows, 1)
        assert torch.equal(generate(model, text, new), plain(model, text, new))
        found.append(fixed._kept[model])
    assert found[0] is found[1] is not found[2] is not found[3] is found[4]


@pytest.mark.parametrize("how", ["in place", "unseen"])
def test_weights_that_have_changed_are_heeded(captured, how):
    """Trained on between two calls, by steps of which no tensor's version tells."""
    model, ids = model_of(), torch.tensor([[1, 2, 3]])
    before = generate(model, ids, 30)
    for name, weight in model.named_parameters():
        if "proj" in name:
            with torch.no_grad():
                (weight if how == "in place" else weight.data).mul_(-1)
    after = generate(model, ids, 30)
    assert torch.equal(after, plain(model, ids, 30)) and not torch.equal(after, before)


def test_two_texts_at_once_do_not_get_each_others_keys(captured):
    model = model_of()
    torch.manual_seed(1)
    one, other = torch.randint(97, (2, 1, 12))
    want = [plain(model, text, 40)[0, 12:].tolist() for text in (one, other)]
    generate(model, one, 9)  # something is kept
    first, second = (generate_steps(model, text, 40) for text in (one, other))
    got = [[], []]
    for a, b in zip(first, second, strict=True):
        got[0].append(a.ids.item()), got[1].append(b.ids.item())
    assert got == want
    assert torch.equal(generate(model, one, 40), plain(model, one, 40))


def test_a_text_that_was_left_leaves_nothing(captured):
    model, ids = model_of(), torch.tensor([[1, 2, 3]])
    steps = generate_steps(model, torch.tensor([[9] * 30]), 50)
    for _ in range(20):
        next(steps)
    steps.close()
    kept = fixed._kept[model]
    assert torch.equal(generate(model, ids, 30), plain(model, ids, 30))
    assert fixed._kept[model] is kept


def test_inference_mode_may_come_and_go(captured):
    """What is kept was made in one mode, and is used in the other."""
    model, ids = model_of(), torch.tensor([[1, 2, 3]])
    want = plain(model, ids, 30)
    for inference in (True, False, True):
        with torch.inference_mode(inference):
            assert torch.equal(generate(model, ids, 30), want)


def test_a_nan_spoils_no_later_text(captured):
    """Nothing times NaN is NaN: a cache that held one would spoil columns that nobody looks at."""
    model, ids = model_of(), torch.tensor([[1, 2, 3]])
    weight = model.layers[0].self_attn.v_proj.weight.data
    sound = weight.clone()
    generate(model, ids, 30)
    weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="the logits after 3 tokens are NaN or infinite"):
        generate(model, ids, 30)
    weight.copy_(sound)
    assert torch.equal(generate(model, ids, 30), plain(model, ids, 30))


# -- who takes part -------------------------------------------------------------------------------


def test_only_cuda_captures():
    assert fixed.captures(torch.device("cuda", 0))
    assert not fixed.captures(torch.device("cpu")) and not fixed.captures(torch.device("mps"))


class Adapted(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) + 3


def adapted(model):
    model.layers[1].mlp.up_proj = Adapted(model.layers[1].mlp.up_proj)


def hooked(model):
    model.layers[0].register_forward_hook(lambda module, inputs, out: out.flip(-1))


def biased(model):
    model.layers[0].mlp.down_proj.bias = torch.nn.Parameter(torch.ones(48))


def mutated(model):
    from smol.parity import MUTANTS

    MUTANTS["no_mask"](model)


@pytest.mark.parametrize("change", [adapted, hooked, biased, mutated])
def test_a_model_with_other_parts_takes_the_plain_way(captured, change):
    model, ids = model_of(), torch.tensor([[1, 2, 3]])
    before = generate(model, ids, 30)
    change(model)
    got = generate(model, ids, 30)
    assert torch.equal(got, plain(model, ids, 30)) and not torch.equal(got, before)
    with pytest.raises(ValueError, match="compile=True is for the model as it is built"):
        generate(model, ids, 3, compile=True)


# -- what a GPU would wait for --------------------------------------------------------------------


class Asked(TorchDispatchMode):
    """Counts operations for which a GPU's queue would be emptied: they look at values."""

    looks = ("_local_scalar_dense", "multinomial", "nonzero", "unique", "masked_select", "isin")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += any(name in str(function) for name in self.looks)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", SETTINGS)
def test_tokens_are_looked_at_once_in_eight(captured, monkeypatch, name):
    torch.manual_seed(0)
    model, ids = model_of(), torch.randint(97, (2, 9))
    settings = with_generator({**SETTINGS[name], "stop_ids": [96]})
    lists = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda t: lists.append(t) or tolist(t))
    with Asked() as asked:
        steps = generate_steps(model, ids, 1 + 5 * fixed.AHEAD, **settings)
        next(steps), next(steps)
        asked.count, taken = 0, 2 + len(list(steps))
        assert asked.count == 0
    assert taken > 1 + fixed.AHEAD
    assert len(lists) == 1 + -(-(taken - 1) // fixed.AHEAD)


def test_a_look_is_noticed():
    p = torch.full((1, 4), 0.25)
    for look in (lambda: p.sum().item(), lambda: torch.multinomial(p, 1), lambda: bool(p.sum())):
        with Asked() as asked:
            look()
        assert asked.count == 1


def test_what_is_drawn_is_what_multinomial_draws():
    for seed in range(50):
        torch.manual_seed(seed)
        p = (torch.randn(3, 97) * 3).softmax(-1).masked_fill(torch.rand(3, 97) < 0.5, 0.0)
        one, other = (torch.Generator().manual_seed(seed) for _ in range(2))
        assert torch.equal(draw(p, one), torch.multinomial(p, 1, generator=other))
        assert torch.equal(one.get_state(), other.get_state())


def test_a_growing_cache_makes_cudnn_plan_nothing(monkeypatch):
    """Where nothing is captured: one token at a time, and never for a whole prompt."""
    model, ids = model_of(), torch.tensor([[1, 2, 3]])
    allowed = []
    forward = SmolLM2.forward

    def noted(self, ids, *arguments):
        allowed.append((ids.size(1), torch.backends.cuda.cudnn_sdp_enabled()))
        return forward(self, ids, *arguments)

    monkeypatch.setattr(SmolLM2, "forward", noted)
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: True))
    generate(model, ids, 3)
    assert allowed == [(3, True), (1, False), (1, False)]
    assert torch.backends.cuda.cudnn_sdp_enabled()
