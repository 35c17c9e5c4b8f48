import pytest
import torch
from torch import nn

from byzgym.simulation.gradients import engine_for
from byzgym.tasks import models

pytestmark = pytest.mark.global_rng

GRAY, COLOR, DIGIT = (1, 28, 28), (3, 32, 32), (1, 8, 8)


@pytest.mark.parametrize(
    ("spec", "shape", "count"),
    [
        ("softmax", DIGIT, 64 * 10 + 10),
        ("mlp:5,4,3", (2,), (2 * 5 + 5) + (5 * 4 + 4) + (4 * 3 + 3) + (3 * 10 + 10)),
        ("xie_mlp", GRAY, 118_282),
        ("lenet", COLOR, 62_006),
        ("lenet", (1, 16, 16), 156 + 2416 + (16 * 120 + 120) + (120 * 84 + 84) + 850),
        ("xie_cnn", COLOR, 2_431_018),
        ("embedding_bag:100,4", (7,), 100 * 4 + 4 * 10 + 10),
        ("embedding_bag", (7,), 16_384 * 16 + 16 * 10 + 10),
        ("xie_cnn", (2, 4, 7), 608 + 9248 + 18_496 + 36_928 + (64 * 512 + 512) + 262_656 + 5130),
    ],
)
def test_output_shape_and_parameter_count(spec, shape, count):
    model = models.build(spec, shape, 10)
    assert model(torch.zeros(4, *shape)).shape == (4, 10)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def layers(model):
    return [type(layer).__name__ for layer in model]


def test_perceptrons_are_plain_sequences():
    model = models.build("xie_mlp", GRAY, 10)
    assert type(model) is nn.Sequential
    assert layers(model) == ["Flatten", "Linear", "ReLU", "Linear", "ReLU", "Linear"]
    assert str(model) == str(models.build("mlp:128, 128", GRAY, 10))


def test_xie_cnn_is_table_3():
    block = ["Conv2d", "ReLU", "Conv2d", "ReLU", "MaxPool2d", "Dropout"]
    dense = ["Linear", "ReLU", "Dropout"]
    model = models.build("xie_cnn", COLOR, 10)
    assert layers(model) == [*block, *block, "Flatten", *dense, *dense, "Linear"]
    assert [layer.p for layer in model if isinstance(layer, nn.Dropout)] == [0.2] * 4
    convolutions = [layer for layer in model if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [32, 32, 64, 64]
    assert {(layer.kernel_size, layer.padding) for layer in convolutions} == {((3, 3), (1, 1))}


def test_embedding_bag_by_hand():
    bag, linear = model = models.build("embedding_bag:10,3", (4,), 2, seeded(0))
    x = torch.tensor(
        [[3.0, 25.0, 0.0, 0.0], [7.0, 7.0, 7.0, 7.0], [0.0, 0.0, 0.0, 0.0], [10.0, -3.0, 0.0, 0.4]]
    )
    vectors = bag.vectors.weight
    assert vectors.abs().max() <= 1 / 3
    sums = torch.stack([vectors[3] + vectors[5], 4 * vectors[7], torch.zeros(3), vectors[0]])
    counts = torch.tensor([[2.0], [4.0], [1.0], [1.0]])
    torch.testing.assert_close(model(x), linear(sums / counts.sqrt()))


def test_embedding_bag_has_gradients_for_each_worker():
    x = torch.randint(0, 1 << 20, (1, 3, 5, 6), generator=seeded(0)).float()
    y = torch.randint(0, 2, (1, 3, 5), generator=seeded(1))
    model = models.build("embedding_bag:50,4", (6,), 2, seeded(2))
    engine = engine_for(model, x[0, 0], y[0, 0])
    theta, out = flat(model), torch.zeros(1, 3, 210)
    engine.gradients(theta[None], x, y, [seeded(0)], out)
    for worker in range(3):
        model.zero_grad()
        nn.functional.cross_entropy(model(x[0, worker]), y[0, worker]).backward()
        expected = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        torch.testing.assert_close(out[0, worker], expected)


@pytest.mark.parametrize(
    ("spec", "shape", "message"),
    [
        ("lenett", DIGIT, r"unknown model 'lenett'; did you mean 'lenet'\? known: embedding_bag, lenet, mlp"),
        ("mlp", DIGIT, "needs the widths .* 'mlp:128,128'"),
        ("mlp:0", DIGIT, "must be positive integers .* got 'mlp:0'"),
        ("mlp:8,,8", DIGIT, "must be positive integers .* got 'mlp:8,,8'"),
        ("softmax:3", DIGIT, "'softmax:3' has sizes that do not fit; the sizes it takes: none"),
        ("lenet", DIGIT, r"model 'lenet' needs inputs .* at least 16, got \(1, 8, 8\)"),
        ("lenet", (784,), r"needs inputs of shape \(channels, height, width\)"),
        ("xie_cnn", (3, 3, 9), r"needs inputs of shape \(channels, height, width\)"),
        ("softmax", (0, 3), "input_shape must be .* got 0"),
    ],
)
def test_bad_specifications(spec, shape, message):
    with pytest.raises(ValueError, match=message):
        models.build(spec, shape, 10)


def test_other_bad_arguments():
    with pytest.raises(TypeError, match=r"model must be a string .* got 3"):
        models.build(3, DIGIT, 10)
    with pytest.raises(ValueError, match=r"num_classes must be .* got 1"):
        models.build("softmax", DIGIT, 1)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def flat(model):
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def test_a_generator_decides_the_parameters(untouched_randomness):
    first, again = (flat(models.build("xie_cnn", DIGIT, 10, seeded(3))) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, flat(models.build("xie_cnn", DIGIT, 10, seeded(4))))
    generator = seeded(3)
    models.build("xie_cnn", DIGIT, 10, generator)
    assert not torch.equal(first, flat(models.build("xie_cnn", DIGIT, 10, generator)))


def test_without_a_generator_global_ones_decide():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        built = flat(models.build("xie_cnn", DIGIT, 10))
        after = torch.get_rng_state()
        torch.manual_seed(7)
        assert torch.equal(built, flat(models.xie_cnn(DIGIT, 10)))
        assert torch.equal(after, torch.get_rng_state())  # checking the output has drawn nothing more


def test_users_register_factories():
    models.register("registered_by_a_test", lambda shape, classes, width=3: models.mlp(shape, classes, width))
    assert "registered_by_a_test" in models.names()
    assert models.build("registered_by_a_test", (2,), 4)[1].out_features == 3
    assert models.build("registered_by_a_test:9", (2,), 4)[1].out_features == 9
    with pytest.raises(ValueError, match="the sizes it takes: width=3"):
        models.build("registered_by_a_test:9,9", (2,), 4)
    assert models.build("registered_by_a_test:width=9", (2,), 4)[1].out_features == 9
    with pytest.raises(ValueError, match="that do not fit; the parameters it takes: width=3"):
        models.build("registered_by_a_test:depth=9", (2,), 4)
    with pytest.raises(ValueError, match="that do not fit"):
        models.build("registered_by_a_test:9,width=9", (2,), 4)


def test_modes_of_the_caller_do_not_matter():
    expected = flat(models.build("mlp:4", (2,), 3, seeded(0)))
    with torch.inference_mode(), torch.device("meta"):
        model = models.build("mlp:4", (2,), 3, seeded(0))
    assert torch.equal(flat(model), expected)
    assert not any(parameter.is_inference() for parameter in model.parameters())


class Keeping(nn.Linear):
    """Keeps what it has seen, in attributes of every kind."""

    def __init__(self, classes):
        super().__init__(2, classes)
        self.calls, self.seen, self.by_name, self.sizes = 0, [], {}, set()

    def forward(self, x):
        self.calls += 1
        self.last = super().forward(x)
        self.seen.append(x)
        self.by_name["x"] = x
        self.sizes.add(len(x))
        return self.last


def test_what_a_call_keeps_is_put_back():
    models.register("registered_by_a_test", lambda shape, classes: nn.Sequential(Keeping(classes)))
    model = models.build("registered_by_a_test", (2,), 3)
    layer = model[0]
    seen = layer.seen
    with models.unchanged_attributes(model):
        model(torch.ones(1, 2))
        assert len(seen) == 1
    assert (layer.calls, layer.seen, layer.by_name, layer.sizes) == (0, [], {}, set())
    assert layer.seen is seen
    assert not hasattr(layer, "last")


class Words(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.embedding = nn.Embedding(5, classes, sparse=True)

    def forward(self, x):
        return self.embedding(x.long()).sum(1)


def half_frozen(shape, classes):
    model = nn.Linear(2, classes)
    model.bias.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("factory", "error", "message"),
    [
        (lambda shape, classes: None, TypeError, "must return an nn.Module, got None"),
        (lambda shape, classes: nn.Linear(2, 3), ValueError, r"to \[B, 4\], got torch.Size\(\[2, 3\]\)"),
        (lambda shape, classes: nn.Linear(5, 4), ValueError, r"cannot take inputs of shape \(2,\)"),
        (lambda shape, classes: nn.ConstantPad1d((0, 2), 0.0), ValueError, "must have parameters, got none"),
        (lambda shape, classes: Words(classes), ValueError, "must have dense .* sparse=True in embedding$"),
        (half_frozen, ValueError, "of model 'registered_by_a_test' must require gradients.* frozen: bias$"),
    ],
)
def test_what_a_factory_returns_is_checked(factory, error, message):
    models.register("registered_by_a_test", factory)
    with pytest.raises(error, match=message):
        models.build("registered_by_a_test", (2,), 4)


@pytest.mark.parametrize(("channels", "groups"), [(96, 32), (12, 6), (7, 1), (1, 1)])
def test_groups_have_two_channels_or_more(channels, groups):
    assert models.replace_batch_norm(nn.BatchNorm2d(channels)).num_groups == groups


def test_batch_norm_is_replaced_at_every_depth():
    shared = nn.BatchNorm1d(6, eps=1e-3)
    nn.init.constant_(shared.weight, 2.0)
    inner = nn.Sequential(nn.Linear(6, 6), shared)
    model = nn.Sequential(nn.BatchNorm3d(4, affine=False), inner, shared, nn.InstanceNorm2d(3))
    assert models.replace_batch_norm(model) is model
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    assert isinstance(model[0], nn.GroupNorm)
    assert not model[0].affine
    assert model[2].weight is inner[1].weight
    assert (model[2].num_groups, model[2].eps) == (1, 1e-3)
    assert model[2].weight is shared.weight
    assert isinstance(model[3], nn.InstanceNorm2d)
    assert model[0].training
    assert not models.replace_batch_norm(nn.BatchNorm2d(4).eval()).training


def test_samples_are_independent_of_their_batch():
    models.register(
        "registered_by_a_test",
        lambda shape, classes: nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, classes)
        ),
    )
    model = models.build("registered_by_a_test", DIGIT, 10, seeded(0))
    x = torch.randn(5, *DIGIT, generator=seeded(1))
    torch.testing.assert_close(model(x)[:1], model(x[:1]))
    assert not list(model.buffers())
